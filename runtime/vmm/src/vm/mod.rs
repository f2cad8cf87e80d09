//! A VM from its description to its end.

mod check;
mod control;
mod devices;
mod files;
mod kvm;
mod notifications;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use husk_jail::seccomp::Filter;
use rustix::process::setpriority_process;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

pub use check::{ConfigError, load_config};
pub use devices::DeviceError;
pub use kvm::KvmError;

use crate::boot::{self, BootError, registers};
use crate::config::VmConfig;
use crate::console::{Console, RingFile};
use crate::jail::{self, ConfinementError, Filters, Starting};
use crate::memory::{MemoryError, Ram};
use crate::mmio_bus::MmioBus;
use crate::pio::Ports;
use crate::power::ExitCell;
use crate::snapshot::{Saver, Snapshot, SnapshotError};
use crate::statistics;
use crate::sys;
use crate::vcpu::{Machine, VcpuError, Vcpus};
use crate::{acpi, fact, layout};
use files::{Files, GuestFiles};

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
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the console's log {path} (console_log): {source}", path = path.display())]
    Console { path: PathBuf, source: io::Error },
    #[error("the control socket {path} (control_socket): {source}", path = path.display())]
    Control { path: PathBuf, source: io::Error },
    #[error("starting threads: {0}; is a limit of threads too low?")]
    Threads(io::Error),
    #[error("the nice value {nice} (nice): {source}")]
    Nice { nice: i8, source: io::Error },
    #[error(transparent)]
    Vcpus(#[from] VcpuError),
}

/// Runs the VM of `config` to its end. To be called once in a process, by its first thread: the VM's threads
/// and memory go only with the process.
///
/// # Errors
/// [`VmError`] when it does not start.
pub fn run(config: &VmConfig) -> Result<Exit, VmError> {
    let counters = statistics::Shared::default();
    counters.marks.add("started");
    jail::begin(config)?;
    sys::hold_termination().map_err(VmError::Threads)?;
    let files = Files::open(config)?;
    // All threads come of this one.
    if config.nice != 0 {
        setpriority_process(None, config.nice.into())
            .map_err(|error| VmError::Nice { nice: config.nice, source: error.into() })?;
    }
    jail::enter(config)?;
    let filters = Filters::new(config.savable).map_err(ConfinementError::from)?;
    counters.marks.add("confined");
    let exit = ExitCell::default();

    let (mut images, saved) = match files.guest {
        GuestFiles::Boot(kernel, initramfs) => (Some((kernel, initramfs)), None),
        GuestFiles::Restore(files) => (None, Some(Snapshot::read(files, config)?)),
    };
    let ram = ram(config, saved.as_ref())?;
    let memory = ram.memory.memory();
    let entry = match &mut images {
        Some((kernel, initramfs)) => Some(boot::load(&memory, kernel, initramfs, &boot::cmdline(config)?)?),
        None => None,
    };
    counters.marks.add("guest loaded");
    if let Some((kernel, _)) = &images
        && config.plain_returns
        && boot::make_returns_plain(&memory, kernel)
    {
        counters.marks.add("returns made plain");
    }
    drop(images);
    let machine = kvm::Machine::new(files.kvm, &ram)?;
    let devices = devices::build(config, &machine.vm, &ram, &counters, &exit, &filters, files.vsock)?;
    let mut starting = devices.starting;
    counters.marks.add("devices made");
    devices
        .notifications
        .register(Arc::clone(&machine.vm), &filters.notifications, &mut starting)
        .map_err(VmError::Threads)?;
    if saved.is_none() {
        acpi::write(&memory, config.max_vcpus, &devices.acpi_ids)?;
        registers::write_tables(&memory)?;
    }
    let console = console(files.console, config, &machine, saved.as_ref())?;
    let ports = Arc::new(Ports::new(console, exit.clone()));
    let vcpus = machine.vcpus(config.max_vcpus, entry)?;
    let mmio = Arc::new(MmioBus::new(devices.transports));
    if let Some(saved) = &saved {
        saved.apply(&machine.vm, &machine.cpuid, &vcpus, &mmio)?;
        if let Some(plug) = &devices.plug {
            plug.announce();
        }
    }
    counters.marks.add("state in place");
    let saver = Saver {
        vm: Arc::clone(&machine.vm),
        cpuid: machine.cpuid.clone(),
        msrs: machine.msrs()?,
        mmio: Arc::clone(&mmio),
        ports: Arc::clone(&ports),
        memory: saved.is_none().then(|| memory.into_inner()),
        shape: Saver::shape(config),
        savable: config.savable,
    };

    let world = Machine { ports: Arc::clone(&ports), mmio, exit: exit.clone(), counters: counters.clone() };
    // The guest's first instruction comes when every thread that does anything for it is held to its system calls.
    let confined = Arc::new(Barrier::new(vcpus.len() + 1));
    let vcpus = Vcpus::start(vcpus, &config.vcpu_cpus, &world, &filters.vcpu, &confined)?;
    starting.confined().map_err(VmError::Threads)?;
    counters.marks.add("guest entered");
    confined.wait();

    // The others start beside it. No tenant's code is in the guest before its disks, which come by the control socket; and
    // that is served when nobody is left who is not held to its list.
    let mut starting = Starting::default();
    devices.pool.start(&filters.pool, &exit, &mut starting).map_err(VmError::Threads)?;
    end_on_termination(exit.clone(), &filters.signals, &mut starting).map_err(VmError::Threads)?;
    let vm = control::Vm::new(
        vcpus,
        saver,
        devices.slots,
        devices.share,
        devices.plug,
        counters.clone(),
        exit.clone(),
    );
    let open = Arc::new(Barrier::new(control::MAX_CLIENTS + 1));
    control::serve(files.control, vm, &filters.control, &open, &mut starting).map_err(VmError::Threads)?;
    starting.confined().map_err(VmError::Threads)?;
    filters.main.install().map_err(ConfinementError::from)?;
    open.wait();

    let end = exit.wait();
    ports.flush();
    Ok(end)
}

fn ram(config: &VmConfig, saved: Option<&Snapshot>) -> Result<Ram, VmError> {
    Ok(match saved {
        Some(saved) => Ram::restored(saved.memory()?, config.memory_mib, &saved.written)?,
        None => Ram::new(config.memory_mib, config.huge_pages)?,
    })
}

fn console(
    log: RingFile,
    config: &VmConfig,
    machine: &kvm::Machine,
    saved: Option<&Snapshot>,
) -> Result<Console, VmError> {
    let failed = |source| VmError::Console { path: config.console_log.clone(), source };
    let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed)?;
    machine
        .vm
        .register_irqfd(&line, layout::SERIAL_IRQ)
        .map_err(KvmError::call("registering the console's interrupt"))?;
    match saved {
        Some(saved) => Console::restore(line, log, &saved.serial()).map_err(failed),
        None => Ok(Console::new(line, log)),
    }
}

fn end_on_termination(exit: ExitCell, filter: &Filter, starting: &mut Starting) -> io::Result<()> {
    starting.add("signals", filter, move || match sys::wait_for_termination() {
        Ok(()) => exit.set(Exit::Stopped),
        Err(error) => fact!("waiting for SIGTERM: {error}; only the control socket ends this VM"),
    })
}
