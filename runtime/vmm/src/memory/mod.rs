//! Guest memory.

mod hotplug;

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::mmap::FromRangesError;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

pub use hotplug::{HotplugError, Region, SLOT_BYTES};

use crate::layout;
use crate::sys::{self, Mapped};

/// The guest's memory, shared by everything that serves the guest. What it is at a moment, `memory()` tells: parts
/// that are plugged come, and parts that are unplugged go.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Pages of this size are what the host gives best; parts of the file begin at multiples of it.
const HUGE_PAGE: u64 = 2 << 20;

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
    /// The host did not make the file behind it.
    #[error("making the file of {mib} MiB of guest memory failed: {source}")]
    File {
        /// MiB asked for.
        mib: u32,
        /// What the system said.
        source: io::Error,
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

/// The memory that a guest boots with, and the file that it and all that comes later is in. The host gives pages as
/// they are touched. The file has no name, and can be shared with the process that serves the guest's volumes.
pub struct Ram {
    /// What the guest has.
    pub memory: Memory,
    boot: Vec<Mapped>,
    /// In memory: all of it, or for a clone what can be plugged.
    file: Arc<File>,
    /// Where in the file the part begins that can be plugged.
    hotplug_offset: u64,
    /// Whether the file is one of huge pages.
    huge_pages: bool,
}

impl Ram {
    /// Maps `mib` MiB of memory, with room for `hotplug_mib` MiB more; in huge pages of the host's own (hugetlbfs), or in
    /// what it has.
    ///
    /// # Errors
    /// [`MemoryError::File`], [`MemoryError::Map`].
    pub fn new(mib: u32, hotplug_mib: u32, huge_pages: bool) -> Result<Self, MemoryError> {
        let bytes = u64::from(mib) << 20;
        let hotplug_offset = bytes.next_multiple_of(HUGE_PAGE);
        let file = file(hotplug_offset + (u64::from(hotplug_mib) << 20), huge_pages);
        let file = Arc::new(file.map_err(|source| MemoryError::File { mib, source })?);
        let failed = |source| MemoryError::Map { mib, source };
        let (mut boot, mut offset) = (Vec::new(), 0);
        for (start, length) in ranges(bytes) {
            boot.push(map(&file, offset, start, length, huge_pages).map_err(failed)?);
            offset += length as u64;
        }
        let regions = boot.iter().map(|mapped| Arc::clone(mapped.region())).collect();
        let memory = GuestMemoryMmap::from_arc_regions(regions).map_err(|e| failed(e.into()))?;
        Ok(Self { memory: Memory::new(memory), boot, file, hotplug_offset, huge_pages })
    }

    /// The memory of a clone: `saved` copy-on-write, which is of that size, with room for `hotplug_mib` MiB more.
    ///
    /// # Errors
    /// [`MemoryError::File`], [`MemoryError::Map`].
    pub fn restored(saved: File, mib: u32, hotplug_mib: u32) -> Result<Self, MemoryError> {
        let file = file(u64::from(hotplug_mib) << 20, false);
        let file = Arc::new(file.map_err(|source| MemoryError::File { mib, source })?);
        let failed = |source: FromRangesError| MemoryError::Map { mib, source };
        let saved = Arc::new(saved);
        let (mut boot, mut offset) = (Vec::new(), 0);
        for (start, length) in ranges(u64::from(mib) << 20) {
            let place = FileOffset::from_arc(Arc::clone(&saved), offset);
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
            let mapping = MmapRegion::build(Some(place), length, access, flags);
            let region = mapping.map_err(|error| failed(error.into()))?;
            let region = GuestRegionMmap::new(region, start);
            boot.push(Mapped::new(region.ok_or_else(|| failed(FromRangesError::InvalidGuestRegion))?));
            offset += length as u64;
        }
        let regions = boot.iter().map(|mapped| Arc::clone(mapped.region())).collect();
        let memory = GuestMemoryMmap::from_arc_regions(regions).map_err(|e| failed(e.into()))?;
        Ok(Self { memory: Memory::new(memory), boot, file, hotplug_offset: 0, huge_pages: false })
    }

    /// The file that a VM which was booted has its memory in, from its beginning.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
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

/// Maps a part of the file as guest memory at `start`, in fewer, larger pages where the host gives them to files in
/// memory (transparent_hugepage/shmem_enabled).
///
/// Pages of a file of huge ones are reserved: one that is not there when it is touched would kill the VMM.
fn map(
    file: &Arc<File>,
    offset: u64,
    start: GuestAddress,
    bytes: usize,
    huge_pages: bool,
) -> Result<Mapped, FromRangesError> {
    let place = FileOffset::from_arc(Arc::clone(file), offset);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | if huge_pages { 0 } else { libc::MAP_NORESERVE };
    let region = GuestRegionMmap::new(MmapRegion::build(Some(place), bytes, access, flags)?, start)
        .ok_or(FromRangesError::InvalidGuestRegion)?;
    sys::prefer_huge_pages(&region);
    Ok(Mapped::new(region))
}

/// A file in memory whose size nobody it is shared with can change: a page that is gone would kill the VMM.
fn file(bytes: u64, huge_pages: bool) -> io::Result<File> {
    let size = if huge_pages { MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB } else { MemfdFlags::empty() };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | size;
    let file = File::from(memfd_create("guest", flags)?);
    file.set_len(bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
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
