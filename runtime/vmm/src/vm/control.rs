//! The control socket's server: see [`crate::control`] for what is said on it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use husk_jail::seccomp::Filter;

use crate::control::channel::{Channel, ControlError, Line};
use crate::control::{Extent, Reply, Request, Response, Statistics, VmState};
use crate::devices::block::{Medium, MediumError, Slot, SlotError};
use crate::devices::fs::{Share, ShareError};
use crate::devices::mem::Plug;
use crate::fact;
use crate::jail::Starting;
use crate::power::{Exit, ExitCell};
use crate::snapshot::{Saver, SnapshotError};
use crate::statistics;
use crate::vcpu::Vcpus;

/// Clients at a time; more wait. Each has a thread, and none is started later: none of them may start threads.
pub const MAX_CLIENTS: usize = 4;
/// A client that does not take its answer is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The longest wait for the guest to take or give memory.
const MAX_PATIENCE: Duration = Duration::from_secs(60);
/// After a failure to accept, for want of descriptors most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What can be asked of a VM.
pub struct Vm {
    /// Locked while they stop, so that no resume comes between.
    vcpus: Mutex<Vcpus>,
    saver: Saver,
    slots: Vec<Arc<Slot>>,
    share: Option<Arc<Share>>,
    plug: Option<Arc<Plug>>,
    counters: statistics::Shared,
    exit: ExitCell,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no block slot {slot}; the VM has {count}")]
    NoSlot { slot: u8, count: usize },
    #[error("attaching to block slot {slot}: {source}")]
    Medium { slot: u8, source: MediumError },
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the VM has no file system device (fs_tag)")]
    NoShare,
    #[error("the VM's memory cannot be resized: its configuration has no hotplug")]
    NoHotplug,
    #[error("memory of {asked} MiB is more than the {most} MiB that the VM can have (hotplug.limit_mib)")]
    TooLarge { asked: u32, most: u32 },
    #[error("{got} descriptors came with a request that takes {wanted}")]
    Fds { got: usize, wanted: &'static str },
}

impl Vm {
    /// A running VM.
    pub fn new(
        vcpus: Vcpus,
        saver: Saver,
        slots: Vec<Arc<Slot>>,
        share: Option<Arc<Share>>,
        plug: Option<Arc<Plug>>,
        counters: statistics::Shared,
        exit: ExitCell,
    ) -> Self {
        Self { vcpus: Mutex::new(vcpus), saver, slots, share, plug, counters, exit }
    }

    fn slot(&self, slot: u8) -> Result<&Slot, Refusal> {
        let count = self.slots.len();
        self.slots.get(usize::from(slot)).map(Arc::as_ref).ok_or(Refusal::NoSlot { slot, count })
    }

    fn attach(
        &self,
        slot: u8,
        read_only: bool,
        extents: &[Extent],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let place = self.slot(slot)?;
        let medium =
            Medium::new(read_only, extents, fds).map_err(|source| Refusal::Medium { slot, source })?;
        Ok(place.attach(medium)?)
    }

    fn resize(&self, memory_mib: u32, patience: Duration) -> Result<u32, Refusal> {
        let plug = self.plug.as_ref().ok_or(Refusal::NoHotplug)?;
        let most = self.boot_mib().saturating_add(mib(plug.limit()));
        if memory_mib > most {
            return Err(Refusal::TooLarge { asked: memory_mib, most });
        }
        let beyond = u64::from(memory_mib.saturating_sub(self.boot_mib())) << 20;
        Ok(self.boot_mib().saturating_add(mib(plug.resize(beyond, patience.min(MAX_PATIENCE)))))
    }

    /// The memory that the guest booted with.
    fn boot_mib(&self) -> u32 {
        mib(self.saver.shape.memory_bytes())
    }

    fn statistics(&self) -> Statistics {
        let plugged = self.plug.as_ref().map_or(0, |plug| mib(plug.plugged()));
        Statistics { memory_mib: self.boot_mib().saturating_add(plugged), ..self.counters.snapshot() }
    }

    fn snapshot(&self, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let Ok([state, memory]) = <[OwnedFd; 2]>::try_from(fds) else { return Ok(()) };
        let vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = !vcpus.paused();
        vcpus.pause();
        let saved = self.saver.save(vcpus.stopped(), state, memory);
        if saved.is_err() && ran {
            vcpus.resume();
        }
        Ok(saved?)
    }

    fn serve(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        let wanted = match request {
            Request::Attach { .. } => None,
            Request::AttachFs => Some((1, "one")),
            Request::Snapshot => Some((2, "two")),
            _ => Some((0, "none")),
        };
        if let Some((_, wanted)) = wanted.filter(|(number, _)| *number != fds.len()) {
            return Err(Refusal::Fds { got: fds.len(), wanted });
        }
        let vcpus = || self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            Request::State => {
                let paused = vcpus().paused();
                return Ok(Reply::State(if paused { VmState::Paused } else { VmState::Running }));
            }
            Request::Resize { memory_mib, patience_ms } => {
                let patience = Duration::from_millis(patience_ms.into());
                return self.resize(memory_mib, patience).map(Reply::Memory);
            }
            Request::Statistics => return Ok(Reply::Statistics(self.statistics())),
            Request::Attach { slot, read_only, extents } => self.attach(slot, read_only, &extents, fds)?,
            Request::AttachFs => {
                let share = self.share.as_ref().ok_or(Refusal::NoShare)?;
                fds.into_iter().try_for_each(|fd| share.attach(fd))?;
            }
            Request::Detach { slot } => self.slot(slot)?.detach()?,
            Request::Snapshot => self.snapshot(fds)?,
            Request::Pause => vcpus().pause(),
            Request::Resume => vcpus().resume(),
            // The end itself follows the answer.
            Request::Stop => {}
        }
        Ok(Reply::Done)
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

/// Makes the socket (mode 0600).
///
/// # Errors
/// What the system says.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Starts threads, among those that are `starting`, to be held to the system calls of `filter`: they serve when all of them
/// and whoever else waits have come to `open`.
///
/// # Errors
/// When there is no thread to be had.
pub fn serve(
    listener: UnixListener,
    vm: Vm,
    filter: &Filter,
    open: &Arc<Barrier>,
    starting: &mut Starting,
) -> io::Result<()> {
    let shared = Arc::new((listener, vm));
    (0..MAX_CLIENTS).try_for_each(|_| {
        let (shared, open) = (Arc::clone(&shared), Arc::clone(open));
        starting.add("control", filter, move || {
            let (listener, vm) = &*shared;
            open.wait();
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => converse(Channel::new(stream), vm),
                    Err(error) => {
                        fact!("accepting on the control socket: {error}");
                        std::thread::sleep(ACCEPT_AGAIN);
                    }
                }
            }
        })
    })
}

/// Answers requests until the client leaves or what it sends cannot be told apart any more.
fn converse(mut channel: Channel, vm: &Vm) {
    loop {
        let (response, stop) = match channel.receive(None) {
            Ok(Some(Line { text, fds })) => match serde_json::from_slice(&text) {
                Ok(request) => {
                    let stop = request == Request::Stop;
                    match vm.serve(request, fds) {
                        Ok(reply) => (Response::Ok(reply), stop),
                        Err(refusal) => (Response::Error(refusal.to_string()), false),
                    }
                }
                Err(error) => (Response::Error(ControlError::from(error).to_string()), false),
            },
            Ok(None) => return,
            Err(error) => {
                answer(&mut channel, &Response::Error(error.to_string()));
                return;
            }
        };
        let answered = answer(&mut channel, &response);
        if stop {
            vm.exit.set(Exit::Stopped);
        }
        if !answered {
            return;
        }
    }
}

fn answer(channel: &mut Channel, response: &Response) -> bool {
    channel.send(response, &[], ANSWER_LIMIT).is_ok()
}
