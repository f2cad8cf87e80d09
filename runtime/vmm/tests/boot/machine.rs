//! A VM in a process of its own, as the daemon has it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use husk_vmm::config::{
    HotplugConfig, JailConfig, LateDevices, Limits, NetConfig, RestoreConfig, VmConfig, VsockConfig,
};
use husk_vmm::control::client::{ControlClient, ControlError};
use husk_vmm::control::{Extent, Reply, Request, Statistics};
use husk_vmm::host_ports;
use tempfile::TempDir;

use crate::guest;

/// The slowest host that is worth waiting for is an emulated one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running VM.
pub struct Machine {
    /// Its sockets and files.
    pub dir: TempDir,
    /// The VMM.
    pub process: Child,
    /// Where the guest's connections come to.
    pub host: UnixDatagram,
    /// From the VMM's start to the guest's first process.
    pub up_after: Duration,
}

/// The tuned kernel.
pub fn kernel() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/vmlinux")
}

/// A user that no other VMM has.
fn user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1_879_048_192);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A description of a VM with two vCPUs, whose files are in `dir`.
pub fn config(dir: &Path) -> VmConfig {
    VmConfig {
        id: "boot-test".to_owned(),
        jail: Some(JailConfig { uid: user(), gid: user(), network_fd: None }),
        vcpus: 2,
        max_vcpus: 3,
        vcpu_cpus: Vec::new(),
        nice: 0,
        memory_mib: 256,
        huge_pages: false,
        plain_returns: husk_vmm::host_cpus::returns_are_safe(),
        hotplug: Some(HotplugConfig { limit_mib: 1024, requested_mib: 0 }),
        kernel: kernel(),
        initramfs: dir.join("initramfs.cpio"),
        cmdline: "husk.test=1".to_owned(),
        console_log: dir.join("console.log"),
        console_log_limit: 64 << 10,
        block_slots: 3,
        late: LateDevices::default(),
        fs_tag: Some("husk".to_owned()),
        nets: Vec::new(),
        vsock: VsockConfig { cid: 3, socket: dir.join("vsock.sock"), listener_fd: None, host_fd: None },
        control_socket: dir.join("control.sock"),
        restore: None,
        limits: Limits::default(),
        savable: true,
    }
}

/// Starts the VMM as the daemon does; its stderr goes to `vmm.log`.
pub fn start(config: &VmConfig, dir: &Path) -> Child {
    husk_jail::namespaces::start_apart(|| command(config, dir).spawn()).unwrap()
}

/// The VMM's command line, with its description written.
pub fn command(config: &VmConfig, dir: &Path) -> Command {
    let path = dir.join("vmm.json");
    fs::write(&path, serde_json::to_vec(config).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_husk-vmm"));
    command
        .arg("--config")
        .arg(path)
        .stdin(Stdio::null())
        .stderr(fs::File::create(dir.join("vmm.log")).unwrap());
    command
}

impl Machine {
    /// Boots a VM without network.
    pub fn boot() -> Self {
        Self::boot_with(Vec::new())
    }

    /// Boots a VM.
    pub fn boot_with(nets: Vec<NetConfig>) -> Self {
        Self::boot_changed(|config| config.nets = nets)
    }

    /// A VM that goes on from a snapshot: its VMM has started, and the guest may not have answered yet.
    pub fn clone_of(restore: RestoreConfig, change: impl FnOnce(&mut VmConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.restore = Some(restore);
        change(&mut config);
        Self::begin(config, dir)
    }

    fn begin(mut config: VmConfig, dir: TempDir) -> Self {
        let (vmm, host) = host_ports::pair().unwrap();
        config.vsock.host_fd = Some(vmm.as_raw_fd());
        // To be inherited.
        rustix::io::fcntl_setfd(&vmm, rustix::io::FdFlags::empty()).unwrap();
        let process = start(&config, dir.path());
        host.set_nonblocking(true).unwrap();
        Self { dir, process, host, up_after: Duration::ZERO }
    }

    /// Boots a VM whose description is changed first.
    pub fn boot_changed(change: impl FnOnce(&mut VmConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        crate::initramfs::write(&config.initramfs);
        let began = Instant::now();
        let mut machine = Self::begin(config, dir);
        wait_for("the guest", || {
            if let Some(status) = machine.process.try_wait().unwrap() {
                panic!("the VMM ended ({status}): {}", machine.words());
            }
            let (port, _) = machine.accept().ok()?;
            assert_eq!(port, guest::READY_PORT);
            Some(())
        });
        machine.up_after = began.elapsed();
        machine
    }

    /// A connection that the guest has made: the host's port and its end.
    pub fn accept(&self) -> io::Result<(u32, UnixStream)> {
        host_ports::accept(self.host.as_fd())
    }

    /// What the VMM and the guest have said.
    pub fn words(&self) -> String {
        let text = |name| {
            let bytes = fs::read(self.dir.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        format!("{}{}", text("vmm.log"), text("console.log"))
    }

    /// Connects to a port of the guest.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.dir.path().join("vsock.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "CONNECT {port}")?;
        let mut line = String::new();
        BufReader::with_capacity(1, &stream).read_line(&mut line)?;
        match line.strip_prefix("OK ") {
            Some(_) => Ok(stream),
            None => Err(io::Error::other(format!("port {port} answered {line:?}"))),
        }
    }

    /// Runs a shell command in the guest; its status and its output, trimmed.
    pub fn shell(&self, command: &str) -> (i32, String) {
        let mut stream = self.connect(guest::SHELL_PORT).unwrap();
        writeln!(stream, "{command}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut output = String::new();
        stream.read_to_string(&mut output).unwrap();
        let (output, status) = output.rsplit_once("\nstatus ").unwrap_or_else(|| panic!("{output:?}"));
        (status.trim().parse().unwrap(), output.trim().to_owned())
    }

    /// The output of a command that must succeed.
    pub fn output(&self, command: &str) -> String {
        let (status, output) = self.shell(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }

    /// Starts a command that ends the guest.
    pub fn last_command(&self, command: &str) {
        let mut stream = self.connect(guest::SHELL_PORT).unwrap();
        writeln!(stream, "{command}").unwrap();
        // Its end is the VM's.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("\nstatus "), "{command:?} did not end the guest: {answer}");
    }

    /// Asks the VMM.
    pub fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ControlError> {
        ControlClient::connect(&self.dir.path().join("control.sock"))?.request(request, fds)
    }

    /// Puts files into a slot, one after the other.
    pub fn attach(&self, slot: u8, read_only: bool, files: &[&fs::File]) -> Result<Reply, ControlError> {
        let extent = |(fd, file): (usize, &&fs::File)| {
            let length = file.metadata().unwrap().len().next_multiple_of(512);
            Extent { fd, offset: 0, length }
        };
        let extents = files.iter().enumerate().map(extent).collect();
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        self.request(&Request::Attach { slot, read_only, extents }, &fds)
    }

    /// The VMM's counters.
    pub fn statistics(&self) -> Statistics {
        match self.request(&Request::Statistics, &[]).unwrap() {
            Reply::Statistics(statistics) => statistics,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the VMM's end.
    pub fn end(&mut self) -> ExitStatus {
        let process = &mut self.process;
        wait_for("the VMM's end", || process.try_wait().unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.words());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again and again, in short steps.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
