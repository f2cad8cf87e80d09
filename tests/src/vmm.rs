//! husk-vmm itself, without a daemon, as the daemon has it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use husk_vmm::config::{JailConfig, LateDevices, LateSlots, Limits, VmConfig, VsockConfig};
use husk_vmm::control::client::{ControlClient, ControlError};
use husk_vmm::control::{Reply, Request};
use husk_vmm::{host_ports, listen_for_vsock};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::{Process, readable};

/// The user that it becomes: one of those that husk gives to monitors.
const USER: u32 = 1_879_048_192;

/// How long a VMM may take for a sign of life.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks: short beside what is measured.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// A running husk-vmm; it ends with this value.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    config: VmConfig,
    host: UnixDatagram,
}

impl Vmm {
    /// A machine with one vCPU and no devices but those that every machine has, whose files are in `dir`.
    pub fn config(dir: &Path, memory_mib: u32, kernel: &Path, initramfs: &Path) -> VmConfig {
        VmConfig {
            id: "bench".into(),
            jail: Some(JailConfig { uid: USER, gid: USER, network_fd: None }),
            vcpus: 1,
            max_vcpus: 1,
            vcpu_cpus: Vec::new(),
            nice: 0,
            memory_mib,
            huge_pages: false,
            hotplug: None,
            kernel: kernel.to_owned(),
            plain_returns: husk_vmm::host_cpus::returns_are_safe(),
            initramfs: initramfs.to_owned(),
            cmdline: String::new(),
            console_log: dir.join("console"),
            console_log_limit: 1 << 20,
            block_slots: 1,
            late: LateDevices {
                slots: Some(LateSlots { acpi_id: husk_proto::LATE_SLOT_ID.to_owned(), first: 0 }),
                fs: Some(husk_proto::LATE_FS_ID.to_owned()),
                memory: Some(husk_proto::LATE_MEMORY_ID.to_owned()),
            },
            fs_tag: None,
            nets: Vec::new(),
            vsock: VsockConfig { cid: 3, socket: dir.join("vsock"), listener_fd: None, host_fd: None },
            control_socket: dir.join("control"),
            restore: None,
            limits: Limits::default(),
            savable: false,
        }
    }

    /// Starts the program. The taps that the description names are inherited; where the guest's connections come to is
    /// added here.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(program: &Path, mut config: VmConfig) -> Vmm {
        for file in [&config.console_log, &config.vsock.socket, &config.control_socket] {
            let _ = fs::remove_file(file);
        }
        let (vmm, host) = host_ports::pair().expect("make a socket pair");
        let listener = listen_for_vsock(&config.vsock.socket).expect("listen for the guest's clients");
        config.vsock.host_fd = Some(inherit(&vmm));
        config.vsock.listener_fd = Some(inherit(&listener));
        let description = config.control_socket.with_extension("json");
        fs::write(&description, serde_json::to_vec(&config).expect("encode")).expect("write the description");
        let start = || {
            let mut command = Command::new(program);
            command.arg("--config").arg(&description).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
        };
        let child = husk_jail::namespaces::start_apart(start).expect("start husk-vmm");
        Vmm { child, config, host }
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// What the guest has said on its console.
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.config.console_log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The guest's next connection to a port of the host; None when there is none in time.
    pub fn accept(&self, port: u32, limit: Duration) -> Option<UnixStream> {
        let begun = Instant::now();
        loop {
            let left = limit.checked_sub(begun.elapsed())?;
            if !readable(self.host.as_fd(), left) {
                return None;
            }
            if let Ok((to, stream)) = host_ports::accept(self.host.as_fd())
                && to == port
            {
                return Some(stream);
            }
        }
    }

    /// Connects to a port of the guest, as soon as that listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn connect(&self, port: u32) -> UnixStream {
        let begun = Instant::now();
        loop {
            if let Some(stream) = connect(&self.config.vsock.socket, port) {
                return stream;
            }
            assert!(begun.elapsed() < LIMIT, "port {port} of the guest does not listen: {}", self.console());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Asks it, as soon as it listens.
    ///
    /// # Errors
    /// That it refuses.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ControlError> {
        let begun = Instant::now();
        loop {
            match ControlClient::connect(&self.config.control_socket) {
                Ok(mut client) => return client.request(request, fds),
                Err(error) => assert!(begun.elapsed() < LIMIT, "husk-vmm does not listen: {error}"),
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// The number of a descriptor that the processes started from now on have as well.
///
/// # Panics
/// When the system refuses.
pub fn inherit(descriptor: &impl AsFd) -> i32 {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("let a descriptor be inherited");
    descriptor.as_fd().as_raw_fd()
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The VMM's `CONNECT port` handshake; None if there is nobody behind it.
fn connect(socket: &Path, port: u32) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    writeln!(&stream, "CONNECT {port}").ok()?;
    let mut line = String::new();
    // One byte at a time: what follows the line is the guest's.
    BufReader::with_capacity(1, &stream).read_line(&mut line).ok()?;
    line.starts_with("OK ").then_some(stream)
}
