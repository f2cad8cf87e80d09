//! A driver's side of a queue, for tests of devices.

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueOwnedT};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use super::{Activation, Chain, ChainError, Interrupt, VirtQueue};
use crate::memory::Memory;

/// Bytes between the queues that tests put into one memory.
const QUEUE_SPACING: u64 = 0x2000;
const SIZE: u16 = 64;

/// 256 KiB; the first 32 are for rings.
pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 256 << 10)]).unwrap()
}

/// A queue as its driver sees it.
pub struct Driver<'a> {
    ring: MockSplitQueue<'a, GuestMemoryMmap>,
    memory: &'a GuestMemoryMmap,
}

impl<'a> Driver<'a> {
    /// The first queue in `memory`.
    pub fn new(memory: &'a GuestMemoryMmap) -> Self {
        Self::numbered(memory, 0)
    }

    /// One of four queues in `memory`.
    pub fn numbered(memory: &'a GuestMemoryMmap, number: u64) -> Self {
        let ring = MockSplitQueue::create(memory, GuestAddress(number * QUEUE_SPACING), SIZE);
        Self { ring, memory }
    }

    /// Where descriptors, available ring and used ring are.
    pub fn addresses(&self) -> [u64; 3] {
        [self.ring.desc_table_addr().0, self.ring.avail_addr().0, self.ring.used_addr().0]
    }

    /// Says that `index` chains were made available, without making them.
    pub fn claim(&self, index: u16) {
        self.ring.avail().idx().store(index);
    }

    /// Makes `head` available as number `index`, whatever it is.
    pub fn offer_head(&self, index: u16, head: u16) {
        self.ring.avail().ring().ref_at(usize::from(index % SIZE)).unwrap().store(head);
        self.claim(index + 1);
    }

    /// Makes a chain of (address, bytes, device writes) available, as number `index` of the queue's life;
    /// its descriptors follow each other from `first` on.
    pub fn offer(&self, index: u16, first: u16, parts: &[(u64, u32, bool)]) {
        for (number, (address, bytes, write)) in parts.iter().enumerate() {
            let number = first + number as u16;
            let last = number + 1 == first + parts.len() as u16;
            let flags =
                if last { 0 } else { VRING_DESC_F_NEXT } | if *write { VRING_DESC_F_WRITE } else { 0 };
            let raw = RawDescriptor::from(Descriptor::new(*address, *bytes, flags as u16, number + 1));
            self.ring.desc_table().store(number, raw).unwrap();
        }
        self.offer_head(index, first);
    }

    /// A chain as a device gets it.
    pub fn chain(&self, parts: &[(u64, u32, bool)]) -> Result<Chain, ChainError> {
        self.offer(0, 0, parts);
        let mut queue: Queue = self.ring.create_queue().unwrap();
        Chain::parse(Arc::new(self.memory.clone()), queue.iter(self.memory).unwrap().next().unwrap())
    }

    /// How many chains the device has given back, and the last one's head and length.
    pub fn used(&self) -> (u16, u32, u32) {
        let count = self.ring.used().idx().load();
        let last = self.ring.used().ring().ref_at(usize::from(count.wrapping_sub(1) % SIZE)).unwrap().load();
        (count, last.id(), last.len())
    }
}

/// What a device is activated with when its driver has set up `queues` queues.
pub fn activation(memory: &Memory, queues: u64, features: u64) -> Activation {
    let guest = memory.memory();
    let drivers: Vec<Driver> = (0..queues).map(|number| Driver::numbered(&guest, number)).collect();
    activation_by(&drivers, memory, features)
}

/// What it is activated with when `drivers` have set up the queues.
pub fn activation_by(drivers: &[Driver], memory: &Memory, features: u64) -> Activation {
    let interrupt = Interrupt::detached().unwrap();
    let queues = drivers
        .iter()
        .map(|driver| {
            let queue = driver.ring.create_queue().unwrap();
            VirtQueue::for_test(queue, memory.clone(), interrupt.clone())
        })
        .collect();
    Activation { features, queues, interrupt, restored: None }
}
