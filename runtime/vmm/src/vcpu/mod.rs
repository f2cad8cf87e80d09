//! vCPU threads: they run the guest and serve its port and MMIO accesses, nothing else.

mod gate;

use std::io;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use husk_jail::seccomp::Filter;
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::jail::{self, Begun};
use crate::mmio_bus::MmioBus;
use crate::pio::Ports;
use crate::power::{Exit, ExitCell};
use crate::statistics;

use gate::Gate;

/// How often a vCPU that has not left the guest is kicked again: a signal can come just before it enters.
const KICK_AGAIN: Duration = Duration::from_millis(2);

/// What every vCPU thread works with.
#[derive(Clone)]
pub struct Machine {
    /// I/O ports.
    pub ports: Arc<Ports>,
    /// MMIO windows.
    pub mmio: Arc<MmioBus>,
    /// Where a vCPU declares the VM's end.
    pub exit: ExitCell,
    /// Counters of exits.
    pub counters: statistics::Shared,
}

/// Why there are no vCPUs.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// Threads, or the handler of the signal that calls them out of the guest.
    #[error("starting the vCPUs' threads: {0}; is a limit of threads too low?")]
    Threads(#[from] io::Error),
    /// The host has no such CPU, or its cgroup does not allow for it.
    #[error("vCPU {vcpu} cannot be tied to CPU {cpu} of the host (vcpu_cpus): {source}")]
    Cpu {
        /// The vCPU's number.
        vcpu: usize,
        /// The CPU's.
        cpu: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// The running vCPUs.
pub struct Vcpus {
    threads: Vec<JoinHandle<()>>,
    /// Each held by its thread while it is in the guest.
    vcpus: Vec<Arc<Mutex<VcpuFd>>>,
    gate: Arc<Gate>,
}

impl Vcpus {
    /// Starts a thread for each vCPU, tied to one of `cpus` if there are any, and held to the system calls of `filter`.
    /// They run when all of them, and whoever else waits, have come to `start`.
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn start(
        vcpus: Vec<VcpuFd>,
        cpus: &[u16],
        machine: &Machine,
        filter: &Filter,
        start: &Arc<Barrier>,
    ) -> Result<Self, VcpuError> {
        extern "C" fn leave_the_guest(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), leave_the_guest)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let gate = Arc::new(Gate::new(vcpus.len()));
        let mut threads = Vec::new();
        let vcpus: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        let own_cpus = sched_getaffinity(None).map_err(io::Error::from)?;
        for (index, vcpu) in vcpus.iter().enumerate() {
            // A thread has its starter's CPUs from its first step on.
            if let Some(cpu) = cpus.iter().cycle().nth(index).filter(|_| !cpus.is_empty()) {
                tie_to(*cpu).map_err(|source| VcpuError::Cpu { vcpu: index, cpu: *cpu, source })?;
            }
            let (vcpu, machine, gate, start) =
                (Arc::clone(vcpu), machine.clone(), gate.clone(), start.clone());
            threads.push(jail::spawn(&format!("vcpu{index}"), filter, move || {
                start.wait();
                let end = run(&vcpu, &machine, &gate);
                gate.leave();
                machine.exit.set(end);
            })?);
        }
        let threads = threads.into_iter().map(Begun::confined).collect::<io::Result<_>>()?;
        if !cpus.is_empty() {
            sched_setaffinity(None, &own_cpus).map_err(io::Error::from)?;
        }
        Ok(Self { threads, vcpus, gate })
    }

    /// Stops the vCPUs; returns when none is in the guest and each has done what it was about to do.
    pub fn pause(&self) {
        self.gate.close();
        while !self.gate.wait_empty(KICK_AGAIN) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                let _ = thread.kill(SIGRTMIN());
            }
        }
    }

    /// Lets the vCPUs go on.
    pub fn resume(&self) {
        self.gate.open();
    }

    /// Whether they are stopped.
    pub fn paused(&self) -> bool {
        self.gate.is_closed()
    }

    /// The vCPUs, of use while they are stopped.
    pub fn stopped(&self) -> impl Iterator<Item = MutexGuard<'_, VcpuFd>> {
        self.vcpus.iter().map(|vcpu| lock(vcpu))
    }
}

/// Lets the calling thread run on one CPU alone.
fn tie_to(cpu: u16) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu.into());
    Ok(sched_setaffinity(None, &only)?)
}

fn lock(vcpu: &Mutex<VcpuFd>) -> MutexGuard<'_, VcpuFd> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a vCPU is out of the guest.
enum Left {
    /// It did something that has been served.
    Served,
    /// The host wanted it out.
    Interrupted,
    /// The VM ends.
    Ended(Exit),
}

/// Runs until the VM ends.
fn run(vcpu: &Mutex<VcpuFd>, machine: &Machine, gate: &Gate) -> Exit {
    loop {
        while gate.is_closed() {
            if let Some(end) = settle(&mut lock(vcpu), machine) {
                return end;
            }
            gate.pass();
        }
        if let Left::Ended(end) = enter(&mut lock(vcpu), machine) {
            return end;
        }
    }
}

/// Has KVM finish the access that it left the guest for, without going on: what its registers say is whole then
/// (Documentation/virt/kvm/api.rst, KVM_RUN).
fn settle(vcpu: &mut VcpuFd, machine: &Machine) -> Option<Exit> {
    vcpu.set_kvm_immediate_exit(1);
    let end = loop {
        match enter(vcpu, machine) {
            Left::Served => {}
            Left::Interrupted => break None,
            Left::Ended(end) => break Some(end),
        }
    };
    vcpu.set_kvm_immediate_exit(0);
    end
}

/// Enters the guest once and serves what it comes back with.
fn enter(vcpu: &mut VcpuFd, machine: &Machine) -> Left {
    let counters = &machine.counters;
    match vcpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => {
            counters.exits_io.add(1);
            machine.ports.write(port, data);
            // A vCPU that ended the VM must not run on: the guest believes it is off.
            if machine.exit.is_set() {
                return Left::Ended(Exit::Stopped);
            }
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            counters.exits_io.add(1);
            machine.ports.read(port, data);
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            counters.exits_mmio.add(1);
            machine.mmio.read(address, data);
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            counters.exits_mmio.add(1);
            machine.mmio.write(address, data);
        }
        Ok(VcpuExit::Shutdown) => return Left::Ended(Exit::TripleFault),
        Ok(VcpuExit::SystemEvent(event, _)) => return Left::Ended(system_event(event)),
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            let text = format!("KVM cannot enter the guest on CPU {cpu}: reason {reason:#x}");
            return Left::Ended(Exit::Failed(text));
        }
        Ok(VcpuExit::InternalError) => {
            let at = vcpu.get_regs().map_or(0, |registers| registers.rip);
            return Left::Ended(Exit::Failed(format!(
                "KVM cannot emulate the guest's instruction at {at:#x}"
            )));
        }
        Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => counters.exits_interrupted.add(1),
        Ok(_) => counters.exits_other.add(1),
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            counters.exits_interrupted.add(1);
            return Left::Interrupted;
        }
        Err(error) => return Left::Ended(Exit::Failed(format!("KVM_RUN: {error}"))),
    }
    Left::Served
}

fn system_event(event: u32) -> Exit {
    match event {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Exit::PowerOff,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => Exit::Reset,
        event => Exit::Failed(format!("KVM reports system event {event}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_tied_to_its_starters_cpu() {
        let tied = || {
            let own = sched_getaffinity(None).unwrap();
            let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| own.is_set(*cpu)).unwrap();
            tie_to(last as u16).unwrap();
            let child = std::thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap();
            assert!(child.is_set(last) && child.count() == 1);
            let error = tie_to(CpuSet::MAX_CPU as u16 - 1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        };
        std::thread::spawn(tied).join().unwrap();
    }
}
