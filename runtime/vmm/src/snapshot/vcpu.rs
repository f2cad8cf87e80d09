//! The vCPUs' registers.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::sys;

const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// Registers asked for at once.
const CHUNK: usize = 64;
/// Further than KVM takes two counters of one VM for the same that were set at different times.
const FAR: u64 = 1 << 44;

/// One vCPU.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    events: kvm_vcpu_events,
    tsc_khz: u32,
    msrs: Vec<kvm_msr_entry>,
}

impl VcpuState {
    /// Reads them; of the model-specific registers those of `indexes` that this vCPU has.
    ///
    /// # Errors
    /// [`SnapshotError::Kvm`]
    pub fn save(vcpu: &VcpuFd, indexes: &[u32]) -> Result<Self, SnapshotError> {
        let failed = SnapshotError::kvm;
        // Before the others: it may settle what these say.
        let mp_state = vcpu.get_mp_state().map_err(failed("reading a vCPU's run state"))?;
        Ok(Self {
            mp_state,
            regs: vcpu.get_regs().map_err(failed("reading a vCPU's registers"))?,
            sregs: vcpu.get_sregs().map_err(failed("reading a vCPU's system registers"))?,
            xsave: vcpu.get_xsave().map_err(failed("reading a vCPU's extended state"))?,
            xcrs: vcpu.get_xcrs().map_err(failed("reading a vCPU's extended control registers"))?,
            debug_regs: vcpu.get_debug_regs().map_err(failed("reading a vCPU's debug registers"))?,
            lapic: vcpu.get_lapic().map_err(failed("reading a vCPU's local APIC"))?,
            events: vcpu.get_vcpu_events().map_err(failed("reading a vCPU's pending events"))?,
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
            msrs: read_msrs(vcpu, indexes).map_err(failed("reading a vCPU's model-specific registers"))?,
        })
    }

    fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.iter().find(|entry| entry.index == index).map(|entry| entry.data)
    }
}

fn read_msrs(vcpu: &VcpuFd, indexes: &[u32]) -> Result<Vec<kvm_msr_entry>, kvm_ioctls::Error> {
    let mut left = indexes;
    let mut read = Vec::new();
    while !left.is_empty() {
        let chunk = &left[..left.len().min(CHUNK)];
        let entries: Vec<_> =
            chunk.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
        let count = vcpu.get_msrs(&mut msrs)?;
        read.extend(msrs.as_slice().iter().take(count));
        // KVM stops at the first that this vCPU does not have.
        let skip = if count < chunk.len() { count + 1 } else { count };
        left = &left[skip..];
    }
    Ok(read)
}

/// Sets registers one after the other, and names the one that is refused.
fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), SnapshotError> {
    for chunk in entries.chunks(CHUNK) {
        let failed = SnapshotError::kvm("setting a vCPU's model-specific registers");
        let msrs = Msrs::from_entries(chunk)
            .map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
            .and_then(|msrs| vcpu.set_msrs(&msrs));
        let count = msrs.map_err(failed)?;
        if let Some(refused) = chunk.get(count) {
            return Err(SnapshotError::Foreign(format!(
                "this host's KVM does not take {:#x} for the model-specific register {:#x}",
                refused.data, refused.index
            )));
        }
    }
    Ok(())
}

/// Sets the registers of all vCPUs of a VM.
///
/// # Errors
/// [`SnapshotError`]
pub fn restore(vm: &VmFd, vcpus: &[VcpuFd], states: &[VcpuState]) -> Result<(), SnapshotError> {
    for (vcpu, state) in vcpus.iter().zip(states) {
        let own = vcpu.get_tsc_khz().unwrap_or(0);
        if state.tsc_khz != 0 && state.tsc_khz != own && vcpu.set_tsc_khz(state.tsc_khz).is_err() {
            return Err(SnapshotError::Foreign(format!(
                "its clock runs at {} kHz, and this host's CPUs at {own} kHz",
                state.tsc_khz
            )));
        }
        restore_registers(vm, vcpu, state)?;
    }
    restore_counters(vcpus, states)?;
    for (vcpu, state) in vcpus.iter().zip(states) {
        // After the counter that it is compared with, and the local APIC whose timer it is.
        let deadline: Vec<_> =
            state.msrs.iter().filter(|entry| entry.index == IA32_TSC_DEADLINE).copied().collect();
        write_msrs(vcpu, &deadline)?;
        vcpu.set_vcpu_events(&state.events).map_err(SnapshotError::kvm("setting a vCPU's pending events"))?;
        // The guest's watchdogs are not to count the time in between. A guest without KVM's clock has none to tell.
        let _ = vcpu.kvmclock_ctrl();
    }
    Ok(())
}

fn restore_registers(vm: &VmFd, vcpu: &VcpuFd, state: &VcpuState) -> Result<(), SnapshotError> {
    let failed = SnapshotError::kvm;
    vcpu.set_mp_state(state.mp_state).map_err(failed("setting a vCPU's run state"))?;
    vcpu.set_regs(&state.regs).map_err(failed("setting a vCPU's registers"))?;
    vcpu.set_sregs(&state.sregs).map_err(failed("setting a vCPU's system registers"))?;
    vcpu.set_xcrs(&state.xcrs).map_err(failed("setting a vCPU's extended control registers"))?;
    sys::set_xsave(vm, vcpu, &state.xsave).map_err(failed("setting a vCPU's extended state"))?;
    vcpu.set_debug_regs(&state.debug_regs).map_err(failed("setting a vCPU's debug registers"))?;
    vcpu.set_lapic(&state.lapic).map_err(failed("setting a vCPU's local APIC"))?;
    // What is so already is not set: some can be read and not written.
    let indexes: Vec<u32> = state.msrs.iter().map(|entry| entry.index).collect();
    let now = read_msrs(vcpu, &indexes).map_err(failed("reading a vCPU's model-specific registers"))?;
    let now: std::collections::HashMap<u32, u64> =
        now.iter().map(|entry| (entry.index, entry.data)).collect();
    let different: Vec<_> = state
        .msrs
        .iter()
        .filter(|entry| !matches!(entry.index, IA32_TSC | IA32_TSC_DEADLINE))
        .filter(|entry| now.get(&entry.index) != Some(&entry.data))
        .copied()
        .collect();
    write_msrs(vcpu, &different)
}

/// Lets the time-stamp counters go on from where the first stood: all the same, as the guest knows them.
///
/// KVM takes a value that is within a second of what it expects for an attempt to set the same value on all vCPUs, and
/// sets what it expects; of a VM that is a second old that would be zero. So all are first set to a value far from both.
fn restore_counters(vcpus: &[VcpuFd], states: &[VcpuState]) -> Result<(), SnapshotError> {
    let Some(counter) = states.first().and_then(|state| state.msr(IA32_TSC)) else { return Ok(()) };
    for data in [counter.wrapping_add(FAR), counter] {
        for vcpu in vcpus {
            write_msrs(vcpu, &[kvm_msr_entry { index: IA32_TSC, data, ..Default::default() }])?;
        }
    }
    Ok(())
}
