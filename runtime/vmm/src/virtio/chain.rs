//! Descriptor chains, checked once and as a whole before a device acts on them.

use std::ops::Deref;
use std::sync::Arc;

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{
    Address, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, Permissions, VolatileSlice,
};

/// The most descriptors of a chain: indirect tables may be longer than a queue.
const MAX_DESCRIPTORS: usize = 1024;

/// A chain that no driver may make.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It points outside its table, loops, nests indirect tables or is longer than 4 GiB.
    #[error("it does not end as it should (loop, bad index, nested table or over 4 GiB)")]
    Broken,
    /// More than a device serves.
    #[error("more than {MAX_DESCRIPTORS} descriptors")]
    TooLong,
    /// A readable descriptor after a writable one (virtio 1.2, 2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// Not in guest memory.
    #[error("{bytes} bytes at {address:#x} are not in guest memory")]
    Address {
        /// Guest physical address.
        address: u64,
        /// Length.
        bytes: u32,
    },
}

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    address: GuestAddress,
    bytes: usize,
}

/// A chain, as ranges of guest memory that exist: it keeps the memory in which they were found, which outlives what
/// the guest may unplug of it meanwhile.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Index by which it is given back.
    pub head: u16,
    memory: Arc<GuestMemoryMmap>,
    readable: Vec<Range>,
    writable: Vec<Range>,
    readable_bytes: usize,
    writable_bytes: usize,
}

impl Chain {
    /// Walks and checks a chain.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn parse<M>(memory: Arc<GuestMemoryMmap>, chain: DescriptorChain<M>) -> Result<Self, ChainError>
    where
        M: Deref,
        M::Target: GuestMemory,
    {
        let mut parsed = Self {
            head: chain.head_index(),
            memory,
            readable: Vec::new(),
            writable: Vec::new(),
            readable_bytes: 0,
            writable_bytes: 0,
        };
        let mut last: Option<Descriptor> = None;
        for descriptor in chain {
            parsed.add(descriptor)?;
            last = Some(descriptor);
        }
        // The iterator stops without a word at what it cannot follow.
        match last {
            Some(last) if !last.has_next() => Ok(parsed),
            _ => Err(ChainError::Broken),
        }
    }

    fn add(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        if self.readable.len() + self.writable.len() == MAX_DESCRIPTORS {
            return Err(ChainError::TooLong);
        }
        let range = Range { address: descriptor.addr(), bytes: descriptor.len() as usize };
        let bad = ChainError::Address { address: range.address.raw_value(), bytes: descriptor.len() };
        if range.bytes == 0 {
            return Ok(());
        }
        if range.address.checked_add(u64::from(descriptor.len())).is_none()
            || !GuestMemoryBackend::check_range(&*self.memory, range.address, range.bytes)
        {
            return Err(bad);
        }
        if descriptor.is_write_only() {
            self.writable.push(range);
            self.writable_bytes += range.bytes;
        } else if self.writable.is_empty() {
            self.readable.push(range);
            self.readable_bytes += range.bytes;
        } else {
            return Err(ChainError::Order);
        }
        Ok(())
    }

    /// Bytes that the driver has written for the device.
    pub fn readable_bytes(&self) -> usize {
        self.readable_bytes
    }

    /// Room for the device's answer.
    pub fn writable_bytes(&self) -> usize {
        self.writable_bytes
    }

    /// `bytes` bytes of the readable part from `offset` on; fewer when it is shorter.
    pub fn readable(&self, offset: usize, bytes: usize) -> Vec<VolatileSlice<'_>> {
        slices(&self.memory, &self.readable, offset, bytes)
    }

    /// `bytes` bytes of the writable part from `offset` on; fewer when it is shorter.
    pub fn writable(&self, offset: usize, bytes: usize) -> Vec<VolatileSlice<'_>> {
        slices(&self.memory, &self.writable, offset, bytes)
    }

    /// Copies from the readable part; false when it is shorter.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let mut done = 0;
        for slice in self.readable(offset, into.len()) {
            done += slice.copy_to(&mut into[done..]);
        }
        done == into.len()
    }

    /// Copies to the writable part; false when it is shorter.
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        let mut done = 0;
        for slice in self.writable(offset, from.len()) {
            slice.copy_from(&from[done..]);
            done += slice.len().min(from.len() - done);
        }
        done == from.len()
    }
}

/// A range may cross from one region of guest memory to the next, hence several slices.
fn slices<'a>(
    memory: &'a GuestMemoryMmap,
    ranges: &[Range],
    mut skip: usize,
    mut bytes: usize,
) -> Vec<VolatileSlice<'a>> {
    let mut slices = Vec::with_capacity(ranges.len());
    for range in ranges {
        if skip >= range.bytes {
            skip -= range.bytes;
            continue;
        }
        let want = bytes.min(range.bytes - skip);
        if want == 0 {
            break;
        }
        let start = GuestAddress(range.address.raw_value() + skip as u64);
        // The whole range was checked when the chain was parsed.
        slices.extend(
            GuestMemory::get_slices(memory, start, want, Permissions::ReadWrite)
                .into_iter()
                .flatten()
                .map_while(Result::ok),
        );
        bytes -= want;
        skip = 0;
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::bindings::virtio_ring::{
        VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    };
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::mock::MockSplitQueue;
    use virtio_queue::{Queue, QueueOwnedT};
    use vm_memory::Bytes;

    const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    const WRITE: u16 = VRING_DESC_F_WRITE as u16;
    const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000), (GuestAddress(0x8000), 0x8000)]).unwrap()
    }

    fn parse(memory: &GuestMemoryMmap, descriptors: &[(u64, u32, u16, u16)]) -> Result<Chain, ChainError> {
        let mock = MockSplitQueue::new(memory, 16);
        for (index, (address, bytes, flags, next)) in descriptors.iter().enumerate() {
            let raw = RawDescriptor::from(Descriptor::new(*address, *bytes, *flags, *next));
            mock.desc_table().store(index as u16, raw).unwrap();
        }
        mock.avail().ring().ref_at(0).unwrap().store(0);
        mock.avail().idx().store(1);
        let mut queue: Queue = mock.create_queue().unwrap();
        let chain = queue.iter(memory).unwrap().next().unwrap();
        Chain::parse(Arc::new(memory.clone()), chain)
    }

    #[test]
    fn ranges_across_regions_become_slices() {
        let memory = memory();
        memory.write_slice(b"0123456789", GuestAddress(0x7ffb)).unwrap();
        let chain = parse(&memory, &[(0x7ffb, 10, NEXT, 1), (0x9000, 4, WRITE, 0)]).unwrap();
        assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (10, 4));
        assert_eq!(chain.readable(0, 10).len(), 2);
        let mut bytes = [0; 6];
        assert!(chain.read(3, &mut bytes));
        assert_eq!(&bytes, b"345678");
        assert!(!chain.read(5, &mut bytes));
        assert!(chain.write(1, b"ab"));
        assert!(!chain.write(1, b"abcd"));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x9002)).unwrap(), b'b');
    }

    #[test]
    fn bad_chains_are_told_apart() {
        let memory = memory();
        assert_eq!(parse(&memory, &[(0x9000, 4, NEXT, 0)]).unwrap_err(), ChainError::Broken);
        assert_eq!(parse(&memory, &[(0x9000, 4, NEXT, 77)]).unwrap_err(), ChainError::Broken);
        assert_eq!(
            parse(&memory, &[(0x9000, 4, NEXT | WRITE, 1), (0x9000, 4, 0, 0)]).unwrap_err(),
            ChainError::Order
        );
        let past_the_end = (0xfff0, 0x20, 0, 0);
        assert_eq!(
            parse(&memory, &[past_the_end]).unwrap_err(),
            ChainError::Address { address: 0xfff0, bytes: 0x20 }
        );
        assert!(matches!(parse(&memory, &[(u64::MAX, 2, 0, 0)]), Err(ChainError::Address { .. })));
    }

    #[test]
    fn indirect_in_indirect_is_broken() {
        let memory = memory();
        let inner = RawDescriptor::from(Descriptor::new(0xa000, 16, INDIRECT, 0));
        memory.write_obj(inner, GuestAddress(0x9000)).unwrap();
        assert_eq!(parse(&memory, &[(0x9000, 16, INDIRECT, 0)]).unwrap_err(), ChainError::Broken);
        let good = RawDescriptor::from(Descriptor::new(0xa000, 16, 0, 0));
        memory.write_obj(good, GuestAddress(0x9000)).unwrap();
        assert_eq!(parse(&memory, &[(0x9000, 16, INDIRECT, 0)]).unwrap().readable_bytes(), 16);
    }
}
