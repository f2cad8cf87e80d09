//! Streams out of a guest, over the network and over vsock: the same guest under both monitors.

use std::fs;
use std::io::Read;
use std::net::{Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use husk_tests::bench_init::{HOST, MIB_VARIABLE, PORT};
use husk_tests::{Bed, Qemu, Vmm, inherited_tap, microvm, readable, sh, step};
use husk_vmm::config::{NetConfig, VmConfig};
use vsock::{VMADDR_CID_ANY, VsockListener};

use super::{LIMIT, MEMORY, insist};
use crate::figures::Figures;

/// Of one stream.
const MIB: usize = 32;
/// A stream that does not move for so long has ended for good.
const STALL: Duration = Duration::from_secs(20);
const MAC: &str = "02:42:0a:63:00:02";
const TAP: &str = "husk-bench0";
const CID: u32 = 900;

struct Streams {
    vmm: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    dir: PathBuf,
    vsock: VsockListener,
    network: TcpListener,
}

/// MiB a second over vsock and over the network.
struct Speeds {
    vsock: f64,
    network: f64,
}

/// The monitors take turns.
pub fn measure(bed: &Bed, rounds: usize, figures: &mut Figures) {
    let dir = bed.scratch("s");
    let streams = Streams {
        vmm: bed.paths.program("husk-vmm"),
        kernel: bed.paths.kernel(),
        initramfs: dir.join("streams.cpio"),
        dir,
        vsock: VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT).expect("listen on vsock"),
        network: TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT as u16)).expect("listen on the network"),
    };
    bed.paths.pack_init("husk-bench-init", &streams.initramfs);
    // The first round warms caches and is not counted.
    for round in 0..=rounds {
        let ours = insist("husk-vmm's streams", || streams.husk());
        let theirs = insist("QEMU's streams", || streams.qemu());
        step(format!(
            "streams, round {round} of {rounds}, MiB/s: vsock {:.0} and QEMU's {:.0}, network {:.0} and QEMU's {:.0}",
            ours.vsock, theirs.vsock, ours.network, theirs.network
        ));
        if round > 0 {
            figures.ours("vsock", ours.vsock);
            figures.peers("vsock", theirs.vsock);
            figures.ours("net", ours.network);
            figures.peers("net", theirs.network);
        }
    }
}

impl Streams {
    fn husk(&self) -> Option<Speeds> {
        let tap = tap();
        let config = Vmm::config(&self.dir, MEMORY, &self.kernel, &self.initramfs);
        let config = VmConfig {
            nets: vec![NetConfig {
                tap_fds: vec![tap.as_raw_fd()],
                queues: 1,
                mac: MAC.to_owned(),
                mtu: 1500,
            }],
            cmdline: format!("{MIB_VARIABLE}={MIB}"),
            ..config
        };
        let vmm = Vmm::start(&self.vmm, config);
        drop(tap);
        let vsock = vmm.accept(PORT, LIMIT).and_then(speed);
        let network = vsock.and_then(|_| self.network());
        if network.is_none() {
            step(format!("husk-vmm's guest: {}", vmm.console()));
        }
        Some(Speeds { vsock: vsock?, network: network? })
    }

    fn qemu(&self) -> Option<Speeds> {
        let tap = tap();
        let console = self.dir.join("qemu");
        let _qemu = Qemu::start(
            microvm(true, MEMORY)
                .arg("-serial")
                .arg(format!("file:{}", console.display()))
                // In QEMU's own process, as husk-vmm has it.
                .args(["-netdev", &format!("tap,id=net,fd={},vhost=off", tap.as_raw_fd())])
                .args(["-device", &format!("virtio-net-device,netdev=net,mac={MAC}")])
                .args(["-device", &format!("vhost-vsock-device,guest-cid={CID}")])
                .args(["-append", &format!("{} {MIB_VARIABLE}={MIB}", husk_vmm::CMDLINE)])
                .arg("-kernel")
                .arg(&self.kernel)
                .arg("-initrd")
                .arg(&self.initramfs),
        );
        drop(tap);
        let vsock = if readable(self.vsock.as_fd(), LIMIT) {
            speed(self.vsock.accept().expect("accept on vsock").0)
        } else {
            None
        };
        let network = vsock.and_then(|_| self.network());
        if network.is_none() {
            step(format!("QEMU's guest: {}", fs::read_to_string(console).unwrap_or_default()));
        }
        Some(Speeds { vsock: vsock?, network: network? })
    }

    fn network(&self) -> Option<f64> {
        if !readable(self.network.as_fd(), LIMIT) {
            return None;
        }
        speed(self.network.accept().expect("accept on the network").0)
    }
}

/// A tap that the monitor inherits, up, with the host's address.
fn tap() -> OwnedFd {
    let tap = inherited_tap(TAP);
    sh(&format!("ip addr add {HOST}/64 dev {TAP} nodad && ip link set {TAP} up"));
    tap
}

/// MiB a second from the first bytes to the end, which has to come after all of them.
fn speed(mut stream: impl Read + AsFd) -> Option<f64> {
    let mut buffer = vec![0; 256 << 10];
    let (mut bytes, mut begun) = (0, Instant::now());
    loop {
        if !readable(stream.as_fd(), STALL) {
            step(format!("a stream stalls after {bytes} bytes"));
            return None;
        }
        match stream.read(&mut buffer).ok()? {
            0 => break,
            read if bytes == 0 => (bytes, begun) = (read, Instant::now()),
            read => bytes += read,
        }
    }
    (bytes == MIB << 20).then(|| MIB as f64 / begun.elapsed().as_secs_f64())
}
