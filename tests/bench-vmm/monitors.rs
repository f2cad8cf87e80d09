//! The monitors that run the guest.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use husk_tests::{microvm, run};
use husk_vmm::config::{JailConfig, Limits, VmConfig, VsockConfig};
use husk_vmm::control::client::ControlClient;
use husk_vmm::control::{Extent, Request};
use tempfile::TempDir;

use crate::guest::{Figures, follow};

/// Bytes of the disk, which the host has in its page cache.
const DISK: u64 = 256 << 20;
const MEMORY_MIB: u32 = 64;
/// The user that husk-vmm becomes: one of those that husk gives to monitors.
const USER: u32 = 1_879_048_192;

/// What the guests run from.
pub struct Parts {
    dir: TempDir,
    vmm: PathBuf,
}

impl Parts {
    /// Compiles the guest, and makes its disk.
    pub fn prepare() -> Parts {
        let dir = tempfile::tempdir().expect("make a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench-vmm/build-guest");
        run(Command::new(source).arg(dir.path()));
        let disk = dir.path().join("disk");
        run(Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "status=none"])
            .arg(format!("count={}", DISK >> 20))
            .arg(format!("of={}", disk.display())));
        fs::write(dir.path().join("empty"), [0; 512]).expect("write an initramfs");
        let own = std::env::current_exe().expect("the path of this program");
        let vmm = own.with_file_name("husk-vmm");
        Parts { dir, vmm }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Monitor {
    /// Ours.
    Husk,
    /// QEMU's microvm.
    Qemu,
    /// A loop around `KVM_RUN`, without devices.
    Floor,
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Monitor::Husk => "husk-vmm",
            Monitor::Qemu => "QEMU",
            Monitor::Floor => "floor",
        })
    }
}

impl Monitor {
    /// All of them.
    pub const ALL: [Monitor; 3] = [Monitor::Husk, Monitor::Qemu, Monitor::Floor];

    /// Runs the guest once.
    pub fn run(self, parts: &Parts) -> Figures {
        match self {
            Monitor::Husk => husk(parts),
            Monitor::Qemu => qemu(parts),
            Monitor::Floor => floor(parts),
        }
    }
}

fn husk(parts: &Parts) -> Figures {
    let [console, control, vsock, description] =
        ["console", "control", "vsock", "vmm.json"].map(|name| parts.file(name));
    for file in [&console, &control, &vsock] {
        let _ = fs::remove_file(file);
    }
    let config = VmConfig {
        id: "bench".into(),
        jail: Some(JailConfig { uid: USER, gid: USER, network_fd: None }),
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: MEMORY_MIB,
        hotplug: None,
        kernel: parts.file("guest-husk"),
        initramfs: parts.file("empty"),
        cmdline: String::new(),
        console_log: console.clone(),
        console_log_limit: 1 << 20,
        block_slots: 1,
        fs_tag: None,
        nets: Vec::new(),
        vsock: VsockConfig { cid: 3, socket: vsock, host_fd: None },
        control_socket: control.clone(),
        restore: None,
        limits: Limits::default(),
        savable: false,
    };
    fs::write(&description, serde_json::to_vec(&config).expect("encode")).expect("write the description");
    let begun = Instant::now();
    let start = || Command::new(&parts.vmm).arg("--config").arg(&description).spawn();
    let mut child = husk_jail::namespaces::start_apart(start).expect("start husk-vmm");
    while !control.exists() {
        std::thread::sleep(Duration::from_micros(200));
    }
    let disk = File::open(parts.file("disk")).expect("open the disk");
    let attach = Request::Attach {
        slot: 0,
        read_only: true,
        extents: vec![Extent { fd: 0, offset: 0, length: DISK }],
    };
    let attached =
        ControlClient::connect(&control).and_then(|mut client| client.request(&attach, &[disk.as_fd()]));
    attached.expect("attach the disk");
    let figures = follow(begun, || text(&console));
    child.kill().and_then(|()| child.wait()).expect("end husk-vmm");
    figures
}

fn qemu(parts: &Parts) -> Figures {
    let console = parts.file("qemu");
    let _ = fs::remove_file(&console);
    let mut command = microvm(false, MEMORY_MIB);
    command
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-drive")
        .arg(format!("file={},if=none,id=disk,format=raw,read-only=on", parts.file("disk").display()))
        .args(["-device", "virtio-blk-device,drive=disk", "-device", "virtio-rng-device", "-kernel"])
        .arg(parts.file("guest-qemu"));
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().expect("start qemu-system-x86_64");
    let figures = follow(begun, || text(&console));
    child.kill().and_then(|()| child.wait()).expect("end QEMU");
    figures
}

fn floor(parts: &Parts) -> Figures {
    let console = parts.file("floor-console");
    let output = File::create(&console).expect("create the console's file");
    let begun = Instant::now();
    let mut child = Command::new(parts.file("floor"))
        .arg(parts.file("guest-husk"))
        .stdout(output)
        .spawn()
        .expect("start the floor");
    let figures = follow(begun, || text(&console));
    child.kill().and_then(|()| child.wait()).expect("end the floor");
    figures
}

fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
