//! KVM calls that take addresses of this process.

use std::sync::Arc;

use kvm_bindings::{kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};

/// A region of guest memory that stays mapped until the process ends, whoever else lets go of it.
#[derive(Clone)]
pub struct Mapped(Arc<GuestRegionMmap>);

impl Mapped {
    /// Keeps `region`.
    pub fn new(region: GuestRegionMmap) -> Self {
        let region = Arc::new(region);
        // Never unmapped: a vCPU could run for as long as any descriptor of the VM is open.
        std::mem::forget(Arc::clone(&region));
        Self(region)
    }

    /// The region.
    pub fn region(&self) -> &Arc<GuestRegionMmap> {
        &self.0
    }

    /// Gives it to the guest as memslot `slot`.
    ///
    /// # Errors
    /// What KVM says.
    pub fn give(&self, vm: &VmFd, slot: u32) -> Result<(), kvm_ioctls::Error> {
        self.set(vm, slot, self.0.len())
    }

    /// Takes memslot `slot`, which has this region, from the guest.
    ///
    /// # Errors
    /// What KVM says.
    pub fn take(&self, vm: &VmFd, slot: u32) -> Result<(), kvm_ioctls::Error> {
        self.set(vm, slot, 0)
    }

    fn set(&self, vm: &VmFd, slot: u32, memory_size: u64) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: self.0.start_addr().raw_value(),
            memory_size,
            userspace_addr: self.0.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the address range is a whole mapping (or, with size 0, none), which outlives the VM as `new` says;
        // nothing but volatile accesses of vm-memory touches it in this process.
        unsafe { vm.set_user_memory_region(region) }
    }
}

/// Sets a vCPU's extended state.
///
/// # Errors
/// What KVM says, and ENOTSUP if this KVM's is larger than the structure.
pub fn set_xsave(vm: &VmFd, vcpu: &VcpuFd, state: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // 0 where KVM does not tell: it is of the structure's size then.
    let bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
    if bytes > size_of::<kvm_xsave>() {
        return Err(kvm_ioctls::Error::new(libc::ENOTSUP));
    }
    // SAFETY: KVM reads as many bytes as the capability says, which are no more than the structure has.
    unsafe { vcpu.set_xsave(state) }
}
