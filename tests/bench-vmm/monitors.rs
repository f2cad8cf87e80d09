//! The monitors that run the guest.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use husk_tests::{Qemu, Vmm, inherited_tap, microvm, run, sh};
use husk_vmm::config::NetConfig;
use husk_vmm::control::{Extent, Request};
use tempfile::TempDir;

use crate::guest::{Run, follow};
use crate::trace;

/// Bytes of the disk, which the host has in its page cache.
const DISK: u64 = 256 << 20;
const MEMORY_MIB: u32 = 64;
const TAP: &str = "husk-bench0";
const MAC: &str = "02:42:0a:63:00:02";

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
    pub fn run(self, parts: &Parts) -> Run {
        match self {
            Monitor::Husk => husk(parts),
            Monitor::Qemu => qemu(parts),
            Monitor::Floor => floor(parts),
        }
    }
}

fn husk(parts: &Parts) -> Run {
    let [kernel, initramfs] = ["guest-husk", "empty"].map(|name| parts.file(name));
    let tap = tap();
    let mut config = Vmm::config(parts.dir.path(), MEMORY_MIB, &kernel, &initramfs);
    config.nets =
        vec![NetConfig { tap_fds: vec![tap.as_raw_fd()], queues: 1, mac: MAC.to_owned(), mtu: 1500 }];
    let disk = File::open(parts.file("disk")).expect("open the disk");
    let (begun, clock) = (Instant::now(), trace::now());
    let vmm = Vmm::start(&parts.vmm, config);
    let attach = Request::Attach {
        slot: 0,
        read_only: true,
        extents: vec![Extent { fd: 0, offset: 0, length: DISK }],
    };
    vmm.request(&attach, &[disk.as_fd()]).expect("attach the disk");
    let run = follow(begun, || vmm.console());
    Run { steps: trace::monitor(clock, &trace::marks(&vmm)), ..run }
}

fn qemu(parts: &Parts) -> Run {
    let console = parts.file("qemu");
    let _ = fs::remove_file(&console);
    let tap = tap();
    let mut command = microvm(false, MEMORY_MIB);
    command
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-drive")
        .arg(format!("file={},if=none,id=disk,format=raw,read-only=on", parts.file("disk").display()))
        .args(["-device", "virtio-blk-device,drive=disk", "-device", "virtio-rng-device"])
        .args(["-netdev", &format!("tap,id=net,fd={},vhost=off", tap.as_raw_fd())])
        .args(["-device", &format!("virtio-net-device,netdev=net,mac={MAC}"), "-kernel"])
        .arg(parts.file("guest-qemu"));
    let begun = Instant::now();
    let mut qemu = Qemu::start(&mut command);
    follow(begun, || {
        let ended = qemu.0.try_wait().expect("look at QEMU");
        assert!(ended.is_none(), "QEMU ended: {ended:?}");
        text(&console)
    })
}

fn floor(parts: &Parts) -> Run {
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

/// A tap that the monitor inherits. It is up, and gone with the monitor.
fn tap() -> OwnedFd {
    let tap = inherited_tap(TAP);
    sh(&format!("ip link set {TAP} up"));
    tap
}

fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
