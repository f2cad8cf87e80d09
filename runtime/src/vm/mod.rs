//! Drives one `husk-vmm` process: starts it, attaches disks, sees its end.

mod end;
mod late;
mod process;
mod ready;
mod scratch;
mod slots;
pub(crate) mod sys;
mod trace;
mod user;
mod waits;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use command_fds::FdMapping;
use husk_vmm::config::{HotplugConfig, JailConfig, NetConfig, RestoreConfig, VmConfig, VsockConfig};
use husk_vmm::control::client::ControlClient;
use husk_vmm::control::{Extent, Reply, Request, Statistics};

pub use end::End;
pub use process::{Usage, VmProcess, start_time as process_start, usage as process_usage};
pub use scratch::ScratchTemplate;
pub use slots::{SCRATCH_SLOT, Slots};
pub use trace::Trace;
pub use user::{free as free_user, of_template as template_user};
pub use waits::Waits;

use crate::cgroup::Door;
use crate::config::VmDefaults;
use crate::error::{Error, Result};
use ready::Ready;

/// The guest's context id: each VM has a VMM and a vsock of its own, so all can use one.
const GUEST_CID: u32 = 3;

/// What differs between one pod's VM and another's.
pub struct VmSpec<'a> {
    /// The sandbox's id.
    pub id: &'a str,
    /// Directory of its sockets, configuration and console.
    pub dir: &'a Path,
    /// The user and group that its VMM becomes, nobody else's.
    pub uid: u32,
    /// The network namespace that its VMM is in; None: an empty one.
    pub network: Option<OwnedFd>,
    /// Number of vCPUs at first.
    pub vcpus: u8,
    /// The most vCPUs that it may have.
    pub max_vcpus: u8,
    /// Memory that it boots with, MiB.
    pub boot_mib: u32,
    /// Memory that it may have beyond.
    pub hotplug: HotplugConfig,
    /// Its interfaces.
    pub nets: &'a [VmNet],
    /// The way into its cgroup.
    pub door: Door,
    /// The template that it goes on from, instead of booting.
    pub restore: Option<RestoreConfig>,
    /// Whether it is to become a template.
    pub savable: bool,
}

/// An interface.
pub struct VmNet {
    /// On the host's side; none if it carries nothing.
    pub taps: Vec<OwnedFd>,
    /// Pairs of queues.
    pub queues: u8,
    /// "02:42:ac:11:00:02"
    pub mac: String,
    /// Bytes.
    pub mtu: u16,
}

impl VmNet {
    /// The largest MTU: a guest's driver lets it be lowered from what it found, not raised.
    const MTU: u16 = u16::MAX;

    /// The interface of that number over a tap's queues, if there are any. The guest is told its address and MTU when it
    /// is up: neither is known before, and no clone keeps what its template has seen.
    pub fn new(number: usize, taps: Vec<OwnedFd>, queues: u8) -> VmNet {
        VmNet { taps, queues, mac: format!("02:00:00:00:00:{:02x}", number as u8), mtu: Self::MTU }
    }
}

/// A disk or piece of one.
pub struct DiskPiece {
    /// Opened as it will be used.
    pub file: OwnedFd,
    /// Bytes into the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A running VM.
pub struct Vm {
    dir: PathBuf,
    /// Waits for the agent's word that it listens; None once it has come.
    ready: Mutex<Option<Ready>>,
    /// The process.
    pub process: VmProcess,
}

impl Vm {
    /// Starts the VMM; [`Self::ready`] follows.
    pub fn start(defaults: &VmDefaults, spec: VmSpec<'_>) -> Result<Vm> {
        clear(spec.dir)?;
        let mut inherited = Vec::new();
        let mut inherit = |parent_fd| {
            let child_fd = 3 + inherited.len() as i32;
            inherited.push(FdMapping { parent_fd, child_fd });
            child_fd
        };
        let (ready, host) = Ready::new().map_err(|e| Error::io("make the socket pair of", spec.dir, e))?;
        let host_fd = Some(inherit(host));
        // Who connects before the VMM is there is served when it is.
        let socket = vsock_socket(spec.dir);
        let listener = husk_vmm::listen_for_vsock(&socket).map_err(|e| Error::io("listen on", &socket, e))?;
        let listener_fd = Some(inherit(listener.into()));
        let network_fd = spec.network.map(&mut inherit);
        let mut nets = Vec::new();
        for VmNet { taps, queues, mac, mtu } in spec.nets {
            let taps: std::io::Result<Vec<OwnedFd>> = taps.iter().map(OwnedFd::try_clone).collect();
            let taps = taps.map_err(|e| Error::io("copy a tap's descriptors for", spec.dir, e))?;
            let tap_fds = taps.into_iter().map(&mut inherit).collect();
            nets.push(NetConfig { tap_fds, queues: *queues, mac: mac.clone(), mtu: *mtu });
        }
        // A clone has said it in its template.
        let ready = spec.restore.is_none().then_some(ready);
        let config = VmConfig {
            id: spec.id.into(),
            jail: Some(JailConfig { uid: spec.uid, gid: spec.uid, network_fd }),
            vcpus: spec.vcpus,
            max_vcpus: spec.max_vcpus,
            vcpu_cpus: defaults.vcpu_cpus.clone(),
            nice: defaults.nice,
            memory_mib: spec.boot_mib,
            huge_pages: defaults.huge_pages,
            hotplug: Some(spec.hotplug),
            kernel: defaults.kernel.clone(),
            plain_returns: husk_vmm::host_cpus::returns_are_safe(),
            initramfs: defaults.initramfs.clone(),
            cmdline: String::new(),
            console_log: console_log(spec.dir),
            console_log_limit: defaults.console_limit,
            block_slots: defaults.block_slots,
            late: late::devices(spec.savable, defaults.block_slots),
            fs_tag: Some(husk_proto::VOLUME_TAG.to_owned()),
            nets,
            vsock: VsockConfig { cid: GUEST_CID, socket, listener_fd, host_fd },
            control_socket: control_socket(spec.dir),
            restore: spec.restore,
            limits: defaults.limits(),
            savable: spec.savable,
        };
        let config_path = config_file(spec.dir);
        let json = serde_json::to_vec_pretty(&config).map_err(|e| Error::Internal(e.to_string()))?;
        std::fs::write(&config_path, json).map_err(|e| Error::io("write", &config_path, e))?;

        let process = VmProcess::spawn(&defaults.vmm, &config_path, spec.dir, inherited, spec.door)?;
        Ok(Vm { dir: spec.dir.to_owned(), ready: Mutex::new(ready), process })
    }

    /// Waits until the agent of a VM that was just started listens, and answers the connection by which it says so.
    ///
    /// # Errors
    /// With the end of the guest's console in the text when the guest did not come up; the VM may still run.
    pub async fn ready(&self, defaults: &VmDefaults) -> Result<Option<UnixStream>> {
        let Some(ready) = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(None);
        };
        let limit = Duration::from_secs(defaults.boot_timeout_secs);
        let outcome = tokio::select! {
            came = ready.came() => came.map_err(|e| Error::Internal(format!("waiting for the guest: {e}"))),
            () = self.process.gone() => Err(Error::Internal("the VMM ended before the guest was up".into())),
            () = tokio::time::sleep(limit) => {
                Err(Error::Deadline(format!("the guest was not up after {} s", limit.as_secs())))
            }
        };
        outcome.map(Some).map_err(|e| Error::Internal(format!("{e}; {}", last_words(&self.dir))))
    }

    /// Takes hold of a VM that an earlier daemon started. None when its process is gone.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn adopt(dir: &Path, pid: i32, started: u64) -> Result<Option<Vm>> {
        Vm::of(dir, VmProcess::adopt(pid, started))
    }

    /// Takes hold of a VM of which only the directory is known: the daemon died between starting it and
    /// writing that down.
    ///
    /// # Errors
    /// When it cannot be known whether there is one.
    pub fn find(dir: &Path) -> Result<Option<Vm>> {
        Vm::of(dir, VmProcess::find(&config_file(dir)))
    }

    fn of(dir: &Path, process: std::io::Result<Option<VmProcess>>) -> Result<Option<Vm>> {
        let process = process.map_err(|e| Error::io("look for the VMM of", dir, e))?;
        Ok(process.map(|process| Vm { dir: dir.to_owned(), ready: Mutex::new(None), process }))
    }

    /// The socket on which the guest's vsock is reached.
    pub fn vsock(&self) -> PathBuf {
        vsock_socket(&self.dir)
    }

    /// Puts a disk into a slot.
    pub async fn attach(&self, slot: u8, read_only: bool, pieces: Vec<DiskPiece>) -> Result<()> {
        let extents = pieces
            .iter()
            .enumerate()
            .map(|(fd, piece)| Extent { fd, offset: piece.offset, length: piece.length })
            .collect();
        let fds = pieces.into_iter().map(|piece| piece.file).collect();
        self.request(Request::Attach { slot, read_only, extents }, fds).await.map(|_| ())
    }

    /// Empties a slot.
    pub async fn detach(&self, slot: u8) -> Result<()> {
        self.request(Request::Detach { slot }, Vec::new()).await.map(|_| ())
    }

    /// Asks the guest to have `memory_mib` MiB in all, waits for at most `patience` until it has, and answers how many
    /// it has then.
    pub async fn resize(&self, memory_mib: u32, patience: Duration) -> Result<u32> {
        let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        match self.request(Request::Resize { memory_mib, patience_ms }, Vec::new()).await? {
            Reply::Memory(mib) => Ok(mib),
            other => Err(Error::Internal(format!("the VMM answered {other:?} to a request for memory"))),
        }
    }

    /// The VMM's counters.
    pub async fn statistics(&self) -> Result<Statistics> {
        match self.request(Request::Statistics, Vec::new()).await? {
            Reply::Statistics(statistics) => Ok(statistics),
            other => {
                Err(Error::Internal(format!("the VMM answered {other:?} to a request for its counters")))
            }
        }
    }

    /// What the VMM, guest included, has cost the host so far.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage().ok_or_else(|| Error::Unavailable("the pod's VM is gone".into()))
    }

    /// Gives the file system device its server.
    pub async fn attach_fs(&self, connection: OwnedFd) -> Result<()> {
        self.request(Request::AttachFs, vec![connection]).await.map(|_| ())
    }

    /// Saves the idle VM, which does not go on after that.
    pub async fn snapshot(&self, state: OwnedFd, memory: OwnedFd) -> Result<()> {
        self.request(Request::Snapshot, vec![state, memory]).await.map(|_| ())
    }

    /// Ends the VM: by its control socket, and by SIGKILL when that does not answer.
    pub async fn stop(&self) {
        let asked = self.request(Request::Stop, Vec::new()).await.is_ok();
        let patience = Duration::from_secs(if asked { 5 } else { 0 });
        if tokio::time::timeout(patience, self.process.gone()).await.is_err() {
            self.process.kill().await;
        }
    }

    async fn request(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Reply> {
        let path = control_socket(&self.dir);
        tokio::task::spawn_blocking(move || {
            let mut client = ControlClient::connect(&path)?;
            let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            client.request(&request, &borrowed)
        })
        .await
        .map_err(|e| Error::Internal(e.to_string()))?
        .map_err(|e| {
            let text = format!("the VMM refused: {e}");
            Error::of_host(&text, &e).unwrap_or(Error::Internal(text))
        })
    }
}

/// What the guest and the VMM said last, for an error's text.
pub fn last_words(dir: &Path) -> String {
    let tail = |path: PathBuf| -> String {
        let bytes = std::fs::read(path).unwrap_or_default();
        let start = bytes.len().saturating_sub(2000);
        String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
    };
    format!("VMM: {:?}; console: {:?}", tail(dir.join("vmm.log")), tail(console_log(dir)))
}

/// Removes the sockets of a VM that was killed.
fn clear(dir: &Path) -> Result<()> {
    for path in [control_socket(dir), vsock_socket(dir)] {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, e)),
            _ => {}
        }
    }
    Ok(())
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("vmm.json")
}

fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

fn vsock_socket(dir: &Path) -> PathBuf {
    dir.join("vsock.sock")
}

/// Where the console of the guest is whose directory this is.
pub fn console_log(dir: &Path) -> PathBuf {
    dir.join("console.log")
}
