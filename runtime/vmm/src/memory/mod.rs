//! Guest memory.

mod hotplug;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_memory::mmap::FromRangesError;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MemoryRegionAddress, MmapRegion,
};

pub use hotplug::{HotplugError, Region, SLOT_BYTES};

use crate::layout;
use crate::sys::{self, Mapped};
use crate::written::{PAGE, Written};

/// The guest's memory, shared by everything that serves the guest. What it is at a moment, `memory()` tells: parts
/// that are plugged come, and parts that are unplugged go.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host did not give it.
    #[error(
        "mapping {mib} MiB of guest memory failed: {source}; is the pod's memory limit below it, or are fewer huge pages \
         free (HugePages_Free in /proc/meminfo), where it is to have some?"
    )]
    Map {
        /// MiB asked for.
        mib: u32,
        /// What mmap said.
        source: FromRangesError,
    },
    /// KVM refused a region.
    #[error("KVM refused guest memory at {address:#x} ({bytes} bytes): {source}")]
    Region {
        /// Guest physical address.
        address: u64,
        /// Length.
        bytes: u64,
        /// What the ioctl said.
        source: kvm_ioctls::Error,
    },
}

/// Ranges (start, bytes) of `bytes` of memory around the hole below 4 GiB.
pub fn ranges(bytes: u64) -> Vec<(GuestAddress, usize)> {
    let low = bytes.min(layout::LOW_MEMORY_MAX);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(layout::HIGH_MEMORY), (bytes - low) as usize));
    }
    ranges
}

/// The memory that a guest boots with. The host gives pages as they are touched.
pub struct Ram {
    /// What the guest has.
    pub memory: Memory,
    boot: Vec<Mapped>,
    /// Whether what can be plugged comes in huge pages that the host has set aside.
    huge_pages: bool,
}

impl Ram {
    /// Maps `mib` MiB of memory: in huge pages that the host has set aside (hugetlbfs), or in what it has.
    ///
    /// # Errors
    /// [`MemoryError::Map`].
    pub fn new(mib: u32, huge_pages: bool) -> Result<Self, MemoryError> {
        Self::of(mib, huge_pages, |_, start, bytes| map(start, bytes, huge_pages))
    }

    /// The memory of a clone: `saved` copy-on-write, which is of that size. The pages `written` are copied here.
    ///
    /// # Errors
    /// [`MemoryError::Map`].
    pub fn restored(saved: File, mib: u32, written: &Written) -> Result<Self, MemoryError> {
        let saved = Arc::new(saved);
        Self::of(mib, false, |offset, start, bytes| {
            let place = FileOffset::from_arc(Arc::clone(&saved), offset);
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
            let mapped = region(MmapRegion::build(Some(place), bytes, access, flags)?, start)?;
            for part in parts(written, offset, bytes) {
                let slice = mapped.region().get_slice(MemoryRegionAddress(part.start as u64), part.len());
                // Before 5.14 Linux cannot; the guest's writes do it then, and so they do where there is no memory left.
                let Ok(Ok(())) = slice.map(|slice| sys::populate(&slice)) else { break };
            }
            Ok(mapped)
        })
    }

    /// `map` makes the part of `bytes` bytes at a guest address, which is so many bytes from the memory's beginning.
    fn of(
        mib: u32,
        huge_pages: bool,
        map: impl Fn(u64, GuestAddress, usize) -> Result<Mapped, FromRangesError>,
    ) -> Result<Self, MemoryError> {
        let failed = |source| MemoryError::Map { mib, source };
        let (mut boot, mut offset) = (Vec::new(), 0);
        for (start, bytes) in ranges(u64::from(mib) << 20) {
            boot.push(map(offset, start, bytes).map_err(failed)?);
            offset += bytes as u64;
        }
        let regions = boot.iter().map(|mapped| Arc::clone(mapped.region())).collect();
        let memory = GuestMemoryMmap::from_arc_regions(regions).map_err(|e| failed(e.into()))?;
        Ok(Self { memory: Memory::new(memory), boot, huge_pages })
    }

    /// Tells KVM of the memory that the guest boots with; memslots are numbered from 0 on.
    ///
    /// # Errors
    /// [`MemoryError::Region`].
    pub fn register(&self, vm: &VmFd) -> Result<(), MemoryError> {
        for (slot, mapped) in self.boot.iter().enumerate() {
            mapped.give(vm, slot as u32).map_err(|source| MemoryError::Region {
                address: mapped.region().start_addr().raw_value(),
                bytes: mapped.region().len(),
                source,
            })?;
        }
        Ok(())
    }
}

/// Bytes of a region that are `written`; the region has `bytes` bytes of the memory file from `offset` on.
fn parts(written: &Written, offset: u64, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let place = move |page: u64| {
        let place = page.saturating_mul(PAGE).saturating_sub(offset);
        usize::try_from(place).unwrap_or(usize::MAX).min(bytes)
    };
    let parts = written.ranges().iter().map(move |range| place(range.start)..place(range.end));
    parts.filter(|part| !part.is_empty())
}

/// Maps memory of the host's for guest memory at `start`.
fn map(start: GuestAddress, bytes: usize, huge_pages: bool) -> Result<Mapped, FromRangesError> {
    region(sys::map_anonymous(bytes, huge_pages)?, start)
}

fn region(mapping: MmapRegion, start: GuestAddress) -> Result<Mapped, FromRangesError> {
    GuestRegionMmap::new(mapping, start).map(Mapped::new).ok_or(FromRangesError::InvalidGuestRegion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_range() {
        assert_eq!(ranges(512 << 20), [(GuestAddress(0), 512 << 20)]);
        assert_eq!(ranges(3 << 30), [(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn memory_past_three_gib_goes_on_above_the_hole() {
        let ranges = ranges((3 << 30) + (1 << 20));
        assert_eq!(ranges, [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 20)]);
    }
}
