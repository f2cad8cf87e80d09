//! A VM from its description to its end.

mod check;
mod control;
mod devices;
mod files;
mod kvm;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

pub use check::{ConfigError, load_config};
pub use devices::DeviceError;
pub use kvm::KvmError;

use crate::boot::{self, BootError, registers};
use crate::config::VmConfig;
use crate::console::{Console, RingFile};
use crate::jail::{self, ConfinementError, Filters};
use crate::memory::{MemoryError, Ram};
use crate::mmio_bus::MmioBus;
use crate::pio::Ports;
use crate::power::ExitCell;
use crate::statistics;
use crate::sys;
use crate::vcpu::{Machine, Vcpus};
use crate::{acpi, fact, layout};
use files::Files;

pub use crate::power::Exit;

/// Why a VM did not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum VmError {
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the console's log {path} (console_log): {source}", path = path.display())]
    Console { path: PathBuf, source: io::Error },
    #[error("the control socket {path} (control_socket): {source}", path = path.display())]
    Control { path: PathBuf, source: io::Error },
    #[error("starting threads: {0}; is a limit of threads too low?")]
    Threads(io::Error),
}

/// Runs the VM of `config` to its end. To be called once in a process, by its first thread: the VM's threads
/// and memory go only with the process.
///
/// # Errors
/// [`VmError`] when it does not start.
pub fn run(config: &VmConfig) -> Result<Exit, VmError> {
    jail::begin(config)?;
    sys::hold_termination().map_err(VmError::Threads)?;
    let files = Files::open(config)?;
    jail::enter(config)?;
    let filters = Filters::new().map_err(ConfinementError::from)?;
    let exit = ExitCell::default();
    let counters = statistics::Shared::default();

    let ram = Ram::new(config.memory_mib, config.hotplug.as_ref().map_or(0, |hotplug| hotplug.limit_mib))?;
    let memory = ram.memory.memory();
    let cmdline = boot::cmdline(config)?;
    let entry = boot::load(&memory, files.kernel, files.initramfs, &cmdline)?;
    let machine = kvm::Machine::new(files.kvm, &ram)?;
    let devices = devices::build(config, &machine.vm, &ram, &counters, &exit, &filters, files.vsock)?;
    acpi::write(&memory, config.max_vcpus, devices.transports.len())?;
    registers::write_tables(&memory)?;
    let console = console(files.console, config, &machine)?;
    let ports = Arc::new(Ports::new(console, exit.clone()));
    let vcpus = machine.vcpus(config.max_vcpus, entry)?;

    let world = Machine {
        ports: Arc::clone(&ports),
        mmio: Arc::new(MmioBus::new(devices.transports)),
        exit: exit.clone(),
        counters: counters.clone(),
    };
    // The guest's first instruction comes when every thread is held to its system calls.
    let confined = Arc::new(Barrier::new(vcpus.len() + 1));
    let vcpus = Vcpus::start(vcpus, &world, &filters.vcpu, &confined).map_err(VmError::Threads)?;
    let vm = control::Vm::new(
        vcpus,
        devices.slots,
        devices.share,
        devices.plug.map(|plug| (plug, config.memory_mib)),
        counters,
        exit.clone(),
    );
    control::serve(files.control, vm, &filters.control).map_err(VmError::Threads)?;
    end_on_termination(exit.clone(), &filters).map_err(VmError::Threads)?;
    filters.main.install().map_err(ConfinementError::from)?;
    confined.wait();

    let end = exit.wait();
    ports.flush();
    Ok(end)
}

fn console(log: RingFile, config: &VmConfig, machine: &kvm::Machine) -> Result<Console, VmError> {
    let failed = |source| VmError::Console { path: config.console_log.clone(), source };
    let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed)?;
    machine
        .vm
        .register_irqfd(&line, layout::SERIAL_IRQ)
        .map_err(KvmError::call("registering the console's interrupt"))?;
    Ok(Console::new(line, log))
}

fn end_on_termination(exit: ExitCell, filters: &Filters) -> io::Result<()> {
    jail::start("signals", &filters.signals, move || match sys::wait_for_termination() {
        Ok(()) => exit.set(Exit::Stopped),
        Err(error) => fact!("waiting for SIGTERM: {error}; only the control socket ends this VM"),
    })
    .map(drop)
}
