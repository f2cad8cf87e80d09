//! virtio-balloon (virtio 1.2, section 5.5) for what it tells of free pages: the guest reports what it has let go of, and
//! the host has it back until the guest touches it again. It never is asked to inflate: how much memory a guest has
//! is virtio-mem's business.
//!
//! A guest can only report memory of its own, and reports of what it goes on using cost itself what is in it.

use std::sync::Arc;

use crate::log::Budget;
use crate::statistics;
use crate::sys;
use crate::virtio::{Chain, ConfigSpace, F_COMMON, Identity, QueueError, Serve, VirtQueue};

/// `VIRTIO_ID_BALLOON`.
const ID: u32 = 5;
/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u64 = 1 << 5;
/// Bytes of `struct virtio_balloon_config`: no pages are wanted, none are had, no hints are asked for, no poison.
const CONFIG: usize = 16;
/// Inflating, deflating, and free pages: Linux numbers the queues that there are, whatever their place in the standard's
/// list is.
const QUEUES: &[u16] = &[16, 16, 32];
const REPORTING: usize = 2;
/// A host that does not take pages back is logged so many times.
const COMPLAINTS: u32 = 5;

/// The device, in a [`Served`](crate::virtio::Served).
pub struct Balloon {
    counters: statistics::Shared,
    budget: Budget,
}

impl Balloon {
    /// It counts what is reported.
    pub fn new(counters: statistics::Shared) -> Self {
        Self { counters, budget: Budget::new(COMPLAINTS) }
    }

    /// What the transport has to know. Huge pages that were given back could be somebody else's when they are touched
    /// again, which would end the VM: where the guest has those, it reports nothing.
    pub fn identity(huge_pages: bool) -> Identity {
        Identity {
            kind: ID,
            features: F_COMMON | if huge_pages { 0 } else { F_REPORTING },
            queue_sizes: QUEUES,
            // A driver sets up those that its features need.
            required_queues: REPORTING,
            config: Arc::new(ConfigSpace::new(vec![0; CONFIG])),
        }
    }

    /// Gives the host the pages of a report. What the guest finds there next is zeroes, or in a clone what its template
    /// had there: it takes neither for its own.
    fn give_back(&self, chain: &Chain) {
        for slice in chain.writable(0, chain.writable_bytes()) {
            match sys::discard(&slice) {
                Ok(bytes) => self.counters.balloon_reported_bytes.add(bytes as u64),
                Err(error) => self.budget.line(format_args!("giving the guest's free pages back: {error}")),
            }
        }
    }
}

impl Serve for Balloon {
    fn serve(&self, queues: &mut [VirtQueue]) -> Result<(), QueueError> {
        for (number, queue) in queues.iter_mut().enumerate() {
            queue.serve(|chain| {
                // Pages for the balloon, which nobody asked for, are taken note of and left alone.
                if number == REPORTING {
                    self.give_back(chain);
                }
                0
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::virtio::testing::{Driver, activation};
    use std::fs::File;
    use std::io::Write;
    use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

    const MIB: u64 = 1 << 20;
    const PAGE: u64 = 4096;
    /// Of the second part of the memory, past the rings.
    const PART: u64 = 16 * MIB;

    /// Guest memory whose second part is `file`, mapped with `flags`.
    fn memory(file: File, flags: i32) -> GuestMemoryMmap {
        let rings = GuestRegionMmap::from_range(GuestAddress(0), MIB as usize, None).unwrap();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let mapping = MmapRegion::build(Some(FileOffset::new(file, 0)), MIB as usize, access, flags).unwrap();
        let part = GuestRegionMmap::new(mapping, GuestAddress(PART)).unwrap();
        GuestMemoryMmap::from_regions(vec![rings, part]).unwrap()
    }

    fn file_of(byte: u8) -> File {
        let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(&vec![byte; MIB as usize]).unwrap();
        file
    }

    /// What is at `address` after the guest has written there, and reported `parts`.
    fn after_report(memory: &GuestMemoryMmap, parts: &[(u64, u32, bool)], addresses: &[u64]) -> Vec<u8> {
        for address in addresses {
            memory.write_obj(7u8, GuestAddress(*address)).unwrap();
        }
        let counters = statistics::Shared::default();
        let balloon = Balloon::new(counters.clone());
        let mut active = activation(&Memory::new(memory.clone()), 3, F_REPORTING);
        let driver = Driver::numbered(memory, REPORTING as u64);
        driver.offer(0, 0, parts);
        balloon.serve(&mut active.queues).unwrap();
        assert_eq!(driver.used(), (1, 0, 0));
        let whole =
            parts.iter().filter(|part| part.2).map(|part| u64::from(part.1) / PAGE * PAGE).sum::<u64>();
        assert_eq!(counters.balloon_reported_bytes.get(), whole);
        addresses.iter().map(|address| memory.read_obj(GuestAddress(*address)).unwrap()).collect()
    }

    #[test]
    fn what_is_reported_is_the_hosts_again() {
        let file = file_of(9);
        let memory = memory(file.try_clone().unwrap(), libc::MAP_SHARED);
        let report = [(PART, 2 * PAGE as u32, true), (PART + 4 * PAGE, PAGE as u32, true)];
        after_report(&memory, &report, &[]);
        let pages = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512 / PAGE;
        assert_eq!(pages, MIB / PAGE - 3);
        let seen = after_report(
            &memory,
            &report,
            &[PART, PART + PAGE, PART + 2 * PAGE, PART + 4 * PAGE, PART + 5 * PAGE],
        );
        assert_eq!(seen, [0, 0, 7, 0, 7]);
    }

    #[test]
    fn a_clone_finds_its_template_again() {
        let memory = memory(file_of(9), libc::MAP_PRIVATE);
        let seen = after_report(&memory, &[(PART, PAGE as u32, true)], &[PART, PART + PAGE]);
        assert_eq!(seen, [9, 7]);
    }

    #[test]
    fn parts_of_pages_and_what_the_device_may_not_write_are_left_alone() {
        let memory = memory(file_of(9), libc::MAP_SHARED);
        let parts = [(PART + 8, PAGE as u32 - 8, true), (PART + 2 * PAGE, 100, true)];
        assert_eq!(after_report(&memory, &parts, &[PART + 8, PART + 2 * PAGE]), [7, 7]);
        let readable = [(PART, PAGE as u32, false)];
        assert_eq!(after_report(&memory, &readable, &[PART]), [7]);
    }

    #[test]
    fn pages_for_the_balloon_stay_the_guests() {
        let memory = memory(file_of(9), libc::MAP_SHARED);
        let counters = statistics::Shared::default();
        let mut active = activation(&Memory::new(memory.clone()), 3, F_REPORTING);
        let driver = Driver::numbered(&memory, 0);
        driver.offer(0, 0, &[(PART, 64, false)]);
        Balloon::new(counters.clone()).serve(&mut active.queues).unwrap();
        assert_eq!((driver.used().0, counters.balloon_reported_bytes.get()), (1, 0));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(PART)).unwrap(), 9);
    }
}
