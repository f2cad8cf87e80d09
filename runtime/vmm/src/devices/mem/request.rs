//! One request of a driver (virtio 1.2, 5.15.8).

use super::blocks::{Answer, Backing, BlockState, Blocks};
use crate::virtio::Chain;

/// Bytes of `struct virtio_mem_req`.
const REQUEST: usize = 24;
/// Bytes of `struct virtio_mem_resp`.
const RESPONSE: usize = 10;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Serves the request in `chain`; answers how many bytes of its writable part were written.
pub fn serve<B: Backing>(chain: &Chain, blocks: &mut Blocks<B>) -> u32 {
    let mut request = [0; REQUEST];
    // Without a whole request or room for an answer nothing is done.
    if chain.writable_bytes() < RESPONSE || !chain.read(0, &mut request) {
        return 0;
    }
    let response = answer(&request, blocks);
    if chain.write(0, &response) { RESPONSE as u32 } else { 0 }
}

fn answer<B: Backing>(request: &[u8; REQUEST], blocks: &mut Blocks<B>) -> [u8; RESPONSE] {
    let half = |at: usize| u16::from_le_bytes([request[at], request[at + 1]]);
    let mut address = [0; 8];
    address.copy_from_slice(&request[8..16]);
    let (address, count) = (u64::from_le_bytes(address), half(16));
    let mut state = 0u16;
    let answer = match half(0) {
        PLUG => blocks.plug(address, count),
        UNPLUG => blocks.unplug(address, count),
        UNPLUG_ALL => blocks.unplug_all(),
        STATE => match blocks.state(address, count) {
            Some(found) => {
                state = match found {
                    BlockState::Plugged => 0,
                    BlockState::Unplugged => 1,
                    BlockState::Mixed => 2,
                };
                Answer::Ack
            }
            None => Answer::Error,
        },
        _ => Answer::Error,
    };
    let code = match answer {
        Answer::Ack => 0u16,
        Answer::Nack => 1,
        Answer::Busy => 2,
        Answer::Error => 3,
    };
    let mut response = [0; RESPONSE];
    response[..2].copy_from_slice(&code.to_le_bytes());
    response[8..].copy_from_slice(&state.to_le_bytes());
    response
}

#[cfg(test)]
mod tests {
    use super::super::blocks::BLOCK_BYTES;
    use super::*;
    use crate::memory::SLOT_BYTES;
    use crate::virtio::testing::{Driver, memory};
    use std::ops::Range;
    use vm_memory::{Bytes, GuestAddress};

    const START: u64 = 4 << 30;
    const REQUEST_AT: u64 = 0x9000;
    const RESPONSE_AT: u64 = 0xa000;

    struct Anything;
    impl Backing for Anything {
        fn open(&mut self, _: usize) -> bool {
            true
        }
        fn close(&mut self, _: usize) -> bool {
            true
        }
        fn discard(&mut self, _: Range<u64>) {}
    }

    #[test]
    fn requests_are_told_apart_and_answered() {
        let memory = memory();
        let mut blocks = Blocks::new(Anything, START, 4 * SLOT_BYTES);
        blocks.request(2 * BLOCK_BYTES);
        let mut ask = |kind: u16, address: u64, count: u16| {
            let mut bytes = [0; REQUEST];
            bytes[..2].copy_from_slice(&kind.to_le_bytes());
            bytes[8..16].copy_from_slice(&address.to_le_bytes());
            bytes[16..18].copy_from_slice(&count.to_le_bytes());
            memory.write_slice(&bytes, GuestAddress(REQUEST_AT)).unwrap();
            let parts = [(REQUEST_AT, REQUEST as u32, false), (RESPONSE_AT, RESPONSE as u32, true)];
            let written = serve(&Driver::new(&memory).chain(&parts).unwrap(), &mut blocks);
            assert_eq!(written, RESPONSE as u32);
            let read = |at| memory.read_obj::<u16>(GuestAddress(RESPONSE_AT + at)).unwrap();
            (read(0), read(8))
        };
        assert_eq!(ask(STATE, START, 2), (0, 1));
        assert_eq!(ask(PLUG, START, 1), (0, 0));
        assert_eq!(ask(STATE, START, 2), (0, 2));
        assert_eq!(ask(STATE, START, 1), (0, 0));
        assert_eq!(ask(PLUG, START + BLOCK_BYTES, 2), (1, 0));
        assert_eq!(ask(UNPLUG, START, 1), (0, 0));
        assert_eq!(ask(UNPLUG, START, 1), (3, 0));
        assert_eq!(ask(UNPLUG_ALL, 0, 0), (0, 0));
        assert_eq!(ask(77, START, 1), (3, 0));
    }

    #[test]
    fn what_is_no_request_gets_no_answer() {
        let memory = memory();
        let mut blocks = Blocks::new(Anything, START, SLOT_BYTES);
        let mut written =
            |parts: &[(u64, u32, bool)]| serve(&Driver::new(&memory).chain(parts).unwrap(), &mut blocks);
        assert_eq!(written(&[(REQUEST_AT, 23, false), (RESPONSE_AT, 10, true)]), 0);
        assert_eq!(written(&[(REQUEST_AT, 24, false), (RESPONSE_AT, 9, true)]), 0);
        assert_eq!(written(&[(REQUEST_AT, 24, false)]), 0);
    }
}
