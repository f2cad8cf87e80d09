//! Which blocks of the region the guest has, and what it may ask for.

use std::ops::Range;

use crate::memory::SLOT_BYTES;

/// Bytes of a block, the least that is plugged: a huge page, so that the host can give and take whole ones.
pub const BLOCK_BYTES: u64 = 2 << 20;
const BLOCKS_OF_SLOT: usize = (SLOT_BYTES / BLOCK_BYTES) as usize;

/// What a driver is answered (`virtio_mem_resp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `VIRTIO_MEM_RESP_ACK`.
    Ack,
    /// `VIRTIO_MEM_RESP_NACK`: more than is requested.
    Nack,
    /// `VIRTIO_MEM_RESP_BUSY`: not now.
    Busy,
    /// `VIRTIO_MEM_RESP_ERROR`: the request makes no sense.
    Error,
}

/// What a driver is told of blocks (`virtio_mem_resp_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// All are plugged.
    Plugged,
    /// None is.
    Unplugged,
    /// Some are.
    Mixed,
}

/// The memory itself.
pub trait Backing {
    /// Lets the guest touch a slot; false if that cannot be.
    fn open(&mut self, slot: usize) -> bool;
    /// Takes a slot from the guest; false if it stays.
    fn close(&mut self, slot: usize) -> bool;
    /// Gives pages back to the host: bytes of the region.
    fn discard(&mut self, bytes: Range<u64>);
}

/// Book of the region's blocks.
pub struct Blocks<B> {
    backing: B,
    start: u64,
    plugged: Vec<bool>,
    plugged_of_slot: Vec<usize>,
    /// Bytes that the guest is asked to have.
    requested: u64,
    /// Bytes from the start in which it may plug.
    usable: u64,
}

impl<B: Backing> Blocks<B> {
    /// A region of `bytes` bytes, a multiple of [`SLOT_BYTES`], that starts at guest address `start`.
    pub fn new(backing: B, start: u64, bytes: u64) -> Self {
        let slots = (bytes / SLOT_BYTES) as usize;
        Self {
            backing,
            start,
            plugged: vec![false; slots * BLOCKS_OF_SLOT],
            plugged_of_slot: vec![0; slots],
            requested: 0,
            usable: 0,
        }
    }

    /// Bytes of the whole region.
    pub fn region_bytes(&self) -> u64 {
        self.plugged.len() as u64 * BLOCK_BYTES
    }

    /// Bytes that the guest has.
    pub fn plugged_bytes(&self) -> u64 {
        self.plugged_of_slot.iter().sum::<usize>() as u64 * BLOCK_BYTES
    }

    /// Bytes that the guest is asked to have.
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// Bytes from the start in which it may plug.
    pub fn usable(&self) -> u64 {
        self.usable
    }

    /// Asks the guest to have `bytes` bytes, rounded up to blocks; no more than there are.
    pub fn request(&mut self, bytes: u64) {
        self.requested = bytes.next_multiple_of(BLOCK_BYTES).min(self.region_bytes());
        self.usable = self.usable.max(self.needed());
    }

    /// A slot more than what is requested, because parts of slots may be lost to the guest. It bounds what a guest
    /// can touch that plugs a little of each slot.
    fn needed(&self) -> u64 {
        (self.requested.next_multiple_of(SLOT_BYTES) + SLOT_BYTES).min(self.region_bytes())
    }

    /// The blocks of a driver's request. None when they are not in the usable part.
    fn range(&self, address: u64, count: u16) -> Option<Range<usize>> {
        let offset = address.checked_sub(self.start)?;
        let bytes = u64::from(count) * BLOCK_BYTES;
        let end = offset.checked_add(bytes)?;
        let good = count > 0 && offset.is_multiple_of(BLOCK_BYTES) && end <= self.usable;
        good.then_some((offset / BLOCK_BYTES) as usize..(end / BLOCK_BYTES) as usize)
    }

    fn slots(range: &Range<usize>) -> Range<usize> {
        range.start / BLOCKS_OF_SLOT..range.end.div_ceil(BLOCKS_OF_SLOT)
    }

    /// `VIRTIO_MEM_REQ_PLUG`.
    pub fn plug(&mut self, address: u64, count: u16) -> Answer {
        let Some(range) = self.range(address, count) else { return Answer::Error };
        if self.plugged[range.clone()].contains(&true) {
            return Answer::Error;
        }
        if self.plugged_bytes() + u64::from(count) * BLOCK_BYTES > self.requested {
            return Answer::Nack;
        }
        let slots = Self::slots(&range);
        for slot in slots.clone() {
            if self.plugged_of_slot[slot] == 0 && !self.backing.open(slot) {
                self.close_empty(slots.start..slot);
                return Answer::Busy;
            }
        }
        self.mark(range, true);
        Answer::Ack
    }

    /// `VIRTIO_MEM_REQ_UNPLUG`.
    pub fn unplug(&mut self, address: u64, count: u16) -> Answer {
        let Some(range) = self.range(address, count) else { return Answer::Error };
        if self.plugged[range.clone()].contains(&false) {
            return Answer::Error;
        }
        self.mark(range.clone(), false);
        self.close_empty(Self::slots(&range));
        self.backing.discard(range.start as u64 * BLOCK_BYTES..range.end as u64 * BLOCK_BYTES);
        Answer::Ack
    }

    /// `VIRTIO_MEM_REQ_UNPLUG_ALL`, after which the usable part is no larger than it must be.
    pub fn unplug_all(&mut self) -> Answer {
        self.mark(0..self.plugged.len(), false);
        self.close_empty(0..self.plugged_of_slot.len());
        self.backing.discard(0..self.region_bytes());
        self.usable = self.needed();
        Answer::Ack
    }

    /// `VIRTIO_MEM_REQ_STATE`.
    pub fn state(&self, address: u64, count: u16) -> Option<BlockState> {
        let blocks = &self.plugged[self.range(address, count)?];
        Some(match (blocks.contains(&true), blocks.contains(&false)) {
            (true, false) => BlockState::Plugged,
            (false, _) => BlockState::Unplugged,
            (true, true) => BlockState::Mixed,
        })
    }

    fn mark(&mut self, range: Range<usize>, plugged: bool) {
        for block in range {
            if std::mem::replace(&mut self.plugged[block], plugged) != plugged {
                let count = &mut self.plugged_of_slot[block / BLOCKS_OF_SLOT];
                *count = if plugged { *count + 1 } else { *count - 1 };
            }
        }
    }

    /// What of a slot stays open is no more than that one slot, and its pages go all the same.
    fn close_empty(&mut self, slots: Range<usize>) {
        for slot in slots {
            if self.plugged_of_slot[slot] == 0 {
                self.backing.close(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const START: u64 = 4 << 30;

    /// Keeps a list of what was done.
    #[derive(Default)]
    struct Record {
        open: BTreeSet<usize>,
        discarded: Vec<(u64, u64)>,
        refuse: Option<usize>,
    }

    impl Backing for Record {
        fn open(&mut self, slot: usize) -> bool {
            self.refuse != Some(slot) && self.open.insert(slot)
        }
        fn close(&mut self, slot: usize) -> bool {
            self.open.remove(&slot)
        }
        fn discard(&mut self, bytes: Range<u64>) {
            self.discarded.push((bytes.start, bytes.end));
        }
    }

    fn blocks(requested: u64) -> Blocks<Record> {
        let mut blocks = Blocks::new(Record::default(), START, 8 * SLOT_BYTES);
        blocks.request(requested);
        blocks
    }

    fn at(block: u64) -> u64 {
        START + block * BLOCK_BYTES
    }

    #[test]
    fn what_is_requested_is_plugged_and_unplugged_and_no_more() {
        let mut blocks = blocks(SLOT_BYTES + BLOCK_BYTES);
        assert_eq!((blocks.requested(), blocks.usable()), (65 * BLOCK_BYTES, 3 * SLOT_BYTES));
        assert_eq!(blocks.plug(at(0), 60), Answer::Ack);
        assert_eq!(blocks.plug(at(60), 5), Answer::Ack);
        assert_eq!(blocks.plug(at(65), 1), Answer::Nack);
        assert_eq!(blocks.plugged_bytes(), 65 * BLOCK_BYTES);
        assert_eq!(blocks.backing.open, BTreeSet::from([0, 1]));
        assert_eq!(blocks.state(at(0), 65), Some(BlockState::Plugged));
        assert_eq!(blocks.state(at(64), 2), Some(BlockState::Mixed));
        assert_eq!(blocks.state(at(65), 9), Some(BlockState::Unplugged));
        blocks.request(0);
        assert_eq!(blocks.usable(), 3 * SLOT_BYTES);
        assert_eq!(blocks.unplug(at(64), 1), Answer::Ack);
        assert_eq!(blocks.backing.open, BTreeSet::from([0]));
        assert_eq!(blocks.backing.discarded, [(64 * BLOCK_BYTES, 65 * BLOCK_BYTES)]);
        assert_eq!(blocks.unplug_all(), Answer::Ack);
        assert_eq!((blocks.plugged_bytes(), blocks.usable()), (0, SLOT_BYTES));
        assert!(blocks.backing.open.is_empty());
    }

    #[test]
    fn senseless_requests_change_nothing() {
        let mut blocks = blocks(SLOT_BYTES);
        assert_eq!(blocks.plug(at(10), 4), Answer::Ack);
        for (address, count) in [
            (0, 1),
            (START - BLOCK_BYTES, 2),
            (at(0), 0),
            (at(0) + 4096, 1),
            (at(8), 3),
            (at(2 * 64), 1),
            (at(2 * 64 - 1), u16::MAX),
            (u64::MAX, 1),
            (u64::MAX - BLOCK_BYTES + 1, u16::MAX),
        ] {
            assert_eq!(blocks.plug(address, count), Answer::Error, "{address:#x} {count}");
            assert_eq!(blocks.unplug(address, count), Answer::Error, "{address:#x} {count}");
        }
        assert_eq!(blocks.unplug(at(9), 2), Answer::Error);
        assert_eq!(blocks.state(at(128), 1), None);
        assert_eq!(blocks.plugged_bytes(), 4 * BLOCK_BYTES);
        assert!(blocks.backing.discarded.is_empty());
    }

    #[test]
    fn a_slot_that_cannot_come_leaves_nothing_behind() {
        let mut blocks = blocks(4 * SLOT_BYTES);
        blocks.backing.refuse = Some(2);
        assert_eq!(blocks.plug(at(63), 80), Answer::Busy);
        assert!(blocks.backing.open.is_empty());
        assert_eq!(blocks.plugged_bytes(), 0);
        blocks.backing.refuse = None;
        assert_eq!(blocks.plug(at(63), 80), Answer::Ack);
        assert_eq!(blocks.backing.open, BTreeSet::from([0, 1, 2]));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Request(u64),
        Plug(u64, u16),
        Unplug(u64, u16),
        UnplugAll,
        State(u64, u16),
        Refuse(Option<usize>),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Mostly whole blocks in and a little beyond the region, now and then anything.
        let address = || prop_oneof![9 => (0..10 * 64u64).prop_map(at), 1 => any::<u64>()];
        let count = || prop_oneof![9 => 0..200u16, 1 => any::<u16>()];
        prop_oneof![
            1 => (0..700u64).prop_map(|blocks| Op::Request(blocks * BLOCK_BYTES)),
            4 => (address(), count()).prop_map(|(address, count)| Op::Plug(address, count)),
            4 => (address(), count()).prop_map(|(address, count)| Op::Unplug(address, count)),
            1 => Just(Op::UnplugAll),
            1 => (address(), count()).prop_map(|(address, count)| Op::State(address, count)),
            1 => proptest::option::of(0..8usize).prop_map(Op::Refuse),
        ]
    }

    proptest! {
        /// Whatever a driver asks for and in which order, it never has more than the host requested when it asked, and
        /// the slots that it can touch are those with a block of its own.
        #[test]
        fn no_driver_gets_more_than_was_requested(ops in proptest::collection::vec(op(), 1..100)) {
            let mut blocks = blocks(SLOT_BYTES);
            for op in ops {
                let before = blocks.plugged_bytes();
                match op {
                    Op::Request(bytes) => blocks.request(bytes),
                    Op::Plug(address, count) => match blocks.plug(address, count) {
                        Answer::Ack => {
                            prop_assert_eq!(blocks.plugged_bytes(), before + u64::from(count) * BLOCK_BYTES);
                            prop_assert!(blocks.plugged_bytes() <= blocks.requested());
                        }
                        _ => prop_assert_eq!(blocks.plugged_bytes(), before),
                    },
                    Op::Unplug(address, count) => {
                        let given = match blocks.unplug(address, count) {
                            Answer::Ack => u64::from(count) * BLOCK_BYTES,
                            _ => 0,
                        };
                        prop_assert_eq!(blocks.plugged_bytes(), before - given);
                    }
                    Op::UnplugAll => {
                        blocks.unplug_all();
                        prop_assert_eq!(blocks.plugged_bytes(), 0);
                    }
                    Op::State(address, count) => drop(blocks.state(address, count)),
                    Op::Refuse(slot) => blocks.backing.refuse = slot,
                }
                let with_blocks: BTreeSet<usize> =
                    (0..8).filter(|slot| blocks.plugged_of_slot[*slot] > 0).collect();
                prop_assert_eq!(&blocks.backing.open, &with_blocks);
                let counted = blocks.plugged.iter().filter(|plugged| **plugged).count() as u64;
                prop_assert_eq!(blocks.plugged_bytes(), counted * BLOCK_BYTES);
            }
        }
    }

    #[test]
    fn no_more_is_requested_than_there_is() {
        let blocks = blocks(u64::MAX / 2);
        assert_eq!((blocks.requested(), blocks.usable()), (8 * SLOT_BYTES, 8 * SLOT_BYTES));
    }
}
