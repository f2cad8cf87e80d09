//! The VM as KVM knows it: memory, interrupt controllers, vCPUs.

use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::GuestAddress;

use crate::boot::{cpuid, registers};
use crate::layout;
use crate::memory::{MemoryError, Ram};

/// Why KVM gives no VM.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device.
    #[error(
        "opening /dev/kvm: {0}; the host needs hardware virtualization (kvm_intel or kvm_amd loaded) and this \
         process access to /dev/kvm; `husk check` tells what is wrong"
    )]
    Open(kvm_ioctls::Error),
    /// Too old or too poor.
    #[error("the host's KVM lacks {0}; use a newer kernel")]
    Lacks(&'static str),
    /// A call failed.
    #[error("KVM: {what}: {source}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl KvmError {
    /// For `map_err` of a call.
    pub fn call(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Call { what, source }
    }
}

/// KVM and a VM of it without vCPUs.
pub struct Machine {
    kvm: Kvm,
    /// What guests may see of the host's CPUs.
    pub cpuid: CpuId,
    /// The VM.
    pub vm: Arc<VmFd>,
}

impl Machine {
    /// Makes a VM that boots with `ram`.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(kvm: Kvm, ram: &Ram) -> Result<Self, KvmError> {
        for (capability, name) in [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
            (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Lacks(name));
            }
        }
        let vm = kvm.create_vm().map_err(KvmError::call("making a VM"))?;
        ram.register(&vm)?;
        // Three pages that Intel's processors need where the guest has no memory.
        vm.set_identity_map_address(layout::IDENTITY_MAP)
            .map_err(KvmError::call("placing the identity map"))?;
        vm.set_tss_address(layout::KVM_TSS).map_err(KvmError::call("placing the TSS"))?;
        vm.create_irq_chip().map_err(KvmError::call("making the interrupt controllers"))?;
        let cpuid = cpuid::supported(&kvm).map_err(KvmError::call("asking for CPUID"))?;
        Ok(Self { kvm, cpuid, vm: Arc::new(vm) })
    }

    /// The numbers of the model-specific registers that KVM can save.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.kvm.get_msr_index_list().map_err(KvmError::call("listing registers"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Makes `count` vCPUs, the first of which starts at `entry`; without one it has to be given a state.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn vcpus(&self, count: u8, entry: Option<GuestAddress>) -> Result<Vec<VcpuFd>, KvmError> {
        (0..count)
            .map(|id| {
                let vcpu = self.vm.create_vcpu(id.into()).map_err(KvmError::call("making a vCPU"))?;
                let cpuid = cpuid::for_vcpu(&self.cpuid, id, count).map_err(KvmError::call("CPUID"))?;
                vcpu.set_cpuid2(&cpuid).map_err(KvmError::call("setting CPUID"))?;
                registers::set_common_state(&vcpu).map_err(KvmError::call("setting registers"))?;
                if let Some(entry) = entry.filter(|_| id == 0) {
                    registers::set_boot_state(&vcpu, entry)
                        .map_err(KvmError::call("setting boot registers"))?;
                }
                Ok(vcpu)
            })
            .collect()
    }
}
