//! A VM's virtio devices, each with its window, its pin and its thread.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::kvm::KvmError;
use super::notifications::Notifications;
use crate::acpi;
use crate::config::VmConfig;
use crate::devices::balloon::Balloon;
use crate::devices::block::{Block, Pool, Slot};
use crate::devices::fs::{Fs, Share};
use crate::devices::mem::{Mem, Plug};
use crate::devices::net::{Lane, Limits, Net, TapError, parse_mac};
use crate::devices::rng::Rng;
use crate::devices::vsock::Vsock;
use crate::jail::{Filters, Starting};
use crate::layout;
use crate::memory::{Memory, Ram, Region};
use crate::power::ExitCell;
use crate::rate::{Limiter, Ticket};
use crate::statistics;
use crate::virtio::{BoxedDevice, Identity, Interrupt, MmioTransport, Served, TransportError, WorkerHandle};

/// Why a VM has no devices.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Threads and descriptors.
    #[error("starting the device threads: {0}; is a limit of threads or open files too low?")]
    Resources(#[from] io::Error),
    /// The vsock's unix socket.
    #[error("listening on the vsock's socket {path} (vsock.socket): {source}", path = path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guest's way to the host.
    #[error("the descriptor for connections to the host (vsock.host_fd): {0}")]
    HostPorts(io::Error),
    /// A network interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A device's registers.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Interrupts.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// The devices, in the order of their windows.
pub struct Devices<'a> {
    /// Their registers.
    pub transports: Vec<MmioTransport>,
    /// By what the guest's drivers find each of them.
    pub acpi_ids: Vec<&'a str>,
    /// Their drivers' notifications, which KVM does not know of yet.
    pub notifications: Notifications,
    /// The block slots, by number.
    pub slots: Vec<Arc<Slot>>,
    /// Where disks' requests wait for threads, which are to be started.
    pub pool: Pool,
    /// The file system device's place for a server.
    pub share: Option<Arc<Share>>,
    /// The memory device's place for the host's requests.
    pub plug: Option<Arc<Plug>>,
    /// The devices' threads.
    pub starting: Starting,
}

struct Builder<'a> {
    vm: &'a VmFd,
    memory: &'a Memory,
    transports: Vec<MmioTransport>,
    acpi_ids: Vec<&'a str>,
    notifications: Notifications,
}

impl<'a> Builder<'a> {
    /// An interrupt for the next device.
    fn interrupt(&self) -> Result<Interrupt, DeviceError> {
        let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let pin = layout::irq(self.transports.len());
        self.vm.register_irqfd(&line, pin).map_err(KvmError::call("registering an interrupt"))?;
        Ok(Interrupt::new(line))
    }

    fn add(
        &mut self,
        identity: Identity,
        device: BoxedDevice,
        worker: &WorkerHandle,
        interrupt: Interrupt,
        late: Option<&'a str>,
    ) -> Result<(), DeviceError> {
        let window = layout::mmio_window(self.transports.len());
        let transport = MmioTransport::new(identity, device, worker.clone(), self.memory.clone(), interrupt)?;
        self.notifications.add(window, transport.kicks());
        self.transports.push(transport);
        self.acpi_ids.push(late.unwrap_or(acpi::VIRTIO_MMIO));
        Ok(())
    }
}

/// Makes the devices of `config`. Disks have a thread of their own, and some more that wait for the host's disk, and so
/// have volumes, which copy much, and pluggable memory, which may take a while to be given and taken; all others are quick.
///
/// # Errors
/// [`DeviceError`].
pub fn build<'a>(
    config: &'a VmConfig,
    vm: &'a Arc<VmFd>,
    ram: &'a Ram,
    counters: &statistics::Shared,
    exit: &ExitCell,
    filters: &Filters,
    listener: UnixListener,
) -> Result<Devices<'a>, DeviceError> {
    let mut starting = Starting::default();
    let io = WorkerHandle::start("io", &filters.io, exit.clone(), &mut starting)?;
    let disks = WorkerHandle::start("block", &filters.block, exit.clone(), &mut starting)?;
    let mut builder = Builder {
        vm,
        memory: &ram.memory,
        transports: Vec::new(),
        acpi_ids: Vec::new(),
        notifications: Notifications::default(),
    };
    let late = &config.late;

    let interrupt = builder.interrupt()?;
    builder.add(Rng::identity(), Box::new(Served::new(Rng)), &io, interrupt, None)?;

    let interrupt = builder.interrupt()?;
    let vsock = Vsock::new(&config.vsock, listener, counters.clone()).map_err(DeviceError::HostPorts)?;
    builder.add(Vsock::identity(config.vsock.cid), Box::new(vsock), &io, interrupt, None)?;

    let [block, rx, tx] = [config.limits.block, config.limits.net_rx, config.limits.net_tx].map(Limiter::new);
    for (index, net) in config.nets.iter().enumerate() {
        let interrupt = builder.interrupt()?;
        let limits =
            || Ok::<_, io::Error>(Limits { rx: Ticket::new(rx.as_ref())?, tx: Ticket::new(tx.as_ref())? });
        let mut lanes = Vec::new();
        for pair in 1..net.queues {
            let name = format!("net{index}.{pair}");
            let worker = WorkerHandle::start(&name, &filters.net, exit.clone(), &mut starting)?;
            lanes.push(Lane { limits: limits()?, worker });
        }
        let device = Net::new(index, net, limits()?, lanes, counters.clone())?;
        // The address was checked with the configuration.
        let mac = parse_mac(&net.mac).unwrap_or_default();
        builder.add(Net::identity(mac, net.mtu, net.queues), Box::new(device), &io, interrupt, None)?;
    }

    let mut share = None;
    if let Some(tag) = &config.fs_tag {
        let worker = WorkerHandle::start("fs", &filters.fs, exit.clone(), &mut starting)?;
        let interrupt = builder.interrupt()?;
        let shared = Share::new()?;
        let device = Box::new(Fs::new(Arc::clone(&shared)));
        builder.add(Fs::identity(tag), device, &worker, interrupt, late.fs.as_deref())?;
        share = Some(shared);
    }

    let worker = WorkerHandle::start("memory", &filters.memory, exit.clone(), &mut starting)?;
    let interrupt = builder.interrupt()?;
    builder.add(
        Balloon::identity(config.huge_pages),
        Box::new(Served::new(Balloon::new(counters.clone()))),
        &worker,
        interrupt,
        late.memory.as_deref(),
    )?;
    let mut plug = None;
    if let Some(hotplug) = &config.hotplug {
        let interrupt = builder.interrupt()?;
        let [limit, requested] = [hotplug.limit_mib, hotplug.requested_mib].map(|mib| u64::from(mib) << 20);
        let region = Region::new(ram, Arc::clone(vm), limit);
        let shared = Arc::new(Plug::new(region, requested, interrupt.clone()));
        let device = Box::new(Served::new(Mem::new(Arc::clone(&shared))));
        builder.add(Mem::identity(&shared), device, &worker, interrupt, late.memory.as_deref())?;
        plug = Some(shared);
    }

    let pool = Pool::default();
    let mut slots = Vec::new();
    for number in 0..config.block_slots {
        let interrupt = builder.interrupt()?;
        let identity = Block::identity(config.max_vcpus);
        let slot = Slot::new(number, identity.config.clone(), interrupt.clone(), disks.clone(), &pool)?;
        let slot = Arc::new(slot);
        let device = Block::new(Arc::clone(&slot), Ticket::new(block.as_ref())?, counters.clone());
        let late = late.slots.as_ref().filter(|late| number >= late.first);
        builder.add(identity, Box::new(device), &disks, interrupt, late.map(|late| late.acpi_id.as_str()))?;
        slots.push(slot);
    }
    let Builder { transports, acpi_ids, notifications, .. } = builder;
    Ok(Devices { transports, acpi_ids, notifications, slots, pool, share, plug, starting })
}
