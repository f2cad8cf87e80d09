//! Guest memory.

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    mmap::FromRangesError,
};

use crate::layout;
use crate::sys;

/// The guest's memory, shared by everything that serves the guest.
pub type Memory = Arc<GuestMemoryMmap>;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host did not give it.
    #[error("mapping {mib} MiB of guest memory failed: {source}; is the pod's memory limit below it?")]
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

/// Maps `mib` MiB of memory; the host gives pages as they are touched. They belong to a file without a name,
/// so that they can be shared with the process that serves the guest's volumes.
///
/// # Errors
/// [`MemoryError::File`], [`MemoryError::Map`].
pub fn allocate(mib: u32) -> Result<Memory, MemoryError> {
    let bytes = u64::from(mib) << 20;
    let file = Arc::new(file(bytes).map_err(|source| MemoryError::File { mib, source })?);
    let mut offset = 0;
    let ranges = ranges(bytes).into_iter().map(|(start, length)| {
        let place = FileOffset::from_arc(Arc::clone(&file), offset);
        offset += length as u64;
        (start, length, Some(place))
    });
    let memory =
        GuestMemoryMmap::from_ranges_with_files(ranges).map_err(|source| MemoryError::Map { mib, source })?;
    // Fewer, larger pages, where the host gives them to files in memory (transparent_hugepage/shmem_enabled).
    memory.iter().for_each(sys::prefer_huge_pages);
    Ok(Arc::new(memory))
}

/// A file in memory whose size nobody it is shared with can change: a page that is gone would kill the VMM.
fn file(bytes: u64) -> io::Result<File> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Tells KVM of the memory. The VM must be dropped before `memory` is: its owner keeps both.
///
/// # Errors
/// [`MemoryError::Region`].
pub fn register(vm: &VmFd, memory: &Memory) -> Result<(), MemoryError> {
    for (slot, region) in memory.iter().enumerate() {
        let (address, bytes) = (region.start_addr().raw_value(), region.len());
        let kvm_region = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: address,
            memory_size: bytes,
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        sys::set_memory_region(vm, memory, kvm_region).map_err(|source| MemoryError::Region {
            address,
            bytes,
            source,
        })?;
    }
    Ok(())
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
