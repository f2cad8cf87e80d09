//! The control queue: how many pairs the driver uses (virtio 1.2, section 5.1.6.5.5). Nothing else is offered.

use crate::virtio::{Chain, QueueError, VirtQueue};

/// `VIRTIO_NET_CTRL_MQ` and `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`: class and command.
const SET_PAIRS: [u8; 2] = [4, 0];
/// `VIRTIO_NET_OK`.
const OK: u8 = 0;
/// `VIRTIO_NET_ERR`.
const ERR: u8 = 1;

/// Answers what is available; `set_pairs` says whether so many can be used.
///
/// # Errors
/// [`QueueError`].
pub fn serve(queue: &mut VirtQueue, mut set_pairs: impl FnMut(u16) -> bool) -> Result<(), QueueError> {
    queue.serve(|chain| {
        let done = wanted_pairs(chain).is_some_and(&mut set_pairs);
        u32::from(chain.write(0, &[if done { OK } else { ERR }]))
    })
}

fn wanted_pairs(chain: &Chain) -> Option<u16> {
    let mut command = [0; 4];
    if chain.readable_bytes() != command.len() || !chain.read(0, &mut command) {
        return None;
    }
    let [class, name, low, high] = command;
    ([class, name] == SET_PAIRS).then(|| u16::from_le_bytes([low, high]))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::Memory;
    use crate::virtio::testing::{Driver, activation, memory};

    #[test]
    fn commands_are_answered_and_bad_ones_refused() {
        const COMMAND: u64 = 0x8000;
        const ANSWER: u64 = 0x9000;
        let memory = memory();
        let driver = Driver::new(&memory);
        let mut active = activation(&Memory::new(memory.clone()), 1, 0);
        for (index, (command, answer, set)) in [
            (&[4, 0, 2, 0][..], OK, Some(2)),
            (&[4, 0, 9, 0], ERR, Some(9)),
            (&[4, 1, 2, 0], ERR, None),
            (&[1, 0, 2, 0], ERR, None),
            (&[4, 0, 2], ERR, None),
            (&[4, 0, 2, 0, 0], ERR, None),
        ]
        .into_iter()
        .enumerate()
        {
            let mut asked = None;
            memory.write_slice(command, GuestAddress(COMMAND)).unwrap();
            memory.write_slice(&[77], GuestAddress(ANSWER)).unwrap();
            let chain = [(COMMAND, command.len() as u32, false), (ANSWER, 1, true)];
            driver.offer(index as u16, 2 * index as u16, &chain);
            let set_pairs = |pairs| {
                asked = Some(pairs);
                pairs <= 4
            };
            serve(&mut active.queues[0], set_pairs).unwrap();
            assert_eq!(asked, set, "{command:?}");
            let mut answered = [0];
            memory.read_slice(&mut answered, GuestAddress(ANSWER)).unwrap();
            assert_eq!(answered, [answer], "{command:?}");
            assert_eq!(driver.used().0, index as u16 + 1);
        }
        // No place for an answer.
        driver.offer(6, 12, &[(COMMAND, 4, false)]);
        serve(&mut active.queues[0], |_| true).unwrap();
        assert_eq!(driver.used(), (7, 12, 0));
    }
}
