//! KVM calls that take addresses of this process.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use crate::memory::Memory;

/// Gives `region`, which must describe a region of `memory`, to the guest.
///
/// # Errors
/// What KVM says; `EINVAL` when the region is not within `memory`.
pub fn set_memory_region(
    vm: &VmFd,
    memory: &Memory,
    region: kvm_userspace_memory_region,
) -> Result<(), kvm_ioctls::Error> {
    use vm_memory::GuestMemoryBackend;
    let matches = memory
        .iter()
        .any(|part| part.as_ptr() as u64 == region.userspace_addr && part.len() == region.memory_size);
    if !matches {
        return Err(kvm_ioctls::Error::new(libc::EINVAL));
    }
    // Never unmapped: a vCPU could run for as long as any descriptor of the VM is open.
    std::mem::forget(memory.clone());
    // SAFETY: the address range is a whole mapping of `memory`, which is leaked above and so outlives the VM;
    // nothing but volatile accesses of vm-memory touches it in this process.
    unsafe { vm.set_user_memory_region(region) }
}

/// Asks for huge pages behind a region; the host may have none for it.
pub fn prefer_huge_pages(region: &GuestRegionMmap) {
    // SAFETY: the range is the region's own mapping, which lives as long as the borrow, and the advice changes
    // nothing about its content.
    unsafe { libc::madvise(region.as_ptr().cast(), region.len() as usize, libc::MADV_HUGEPAGE) };
}
