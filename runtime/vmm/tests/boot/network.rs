//! A tap of the host as the guest's interface.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use husk_vmm::config::NetConfig;

use crate::Test;
use crate::machine::{Machine, wait_for};

pub const TESTS: &[Test] = &[("the guest and the host reach each other", reach_each_other)];

const MIB: usize = 1 << 20;

/// A tap with 10.99.0.1/24, which the VMM inherits.
pub fn tap(name: &str) -> OwnedFd {
    let tap = husk_vmm::make_tap(name).unwrap();
    rustix::io::fcntl_setfd(&tap, rustix::io::FdFlags::empty()).unwrap();
    for arguments in
        [vec!["addr", "add", "10.99.0.1/24", "dev", name], vec!["link", "set", name, "mtu", "1400", "up"]]
    {
        let status = Command::new("ip").env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(arguments).status();
        assert!(status.unwrap().success());
    }
    tap
}

fn reach_each_other() {
    let tap = tap("husk-test0");
    let net = NetConfig { tap_fd: Some(tap.as_raw_fd()), mac: "02:42:0a:63:00:02".to_owned(), mtu: 1400 };
    let machine = Machine::boot_with(vec![net]);
    drop(tap);
    machine.output("busybox ip addr add 10.99.0.2/24 dev eth0 && busybox ip link set eth0 up");
    assert_eq!(machine.output("busybox cat /sys/class/net/eth0/mtu"), "1400");
    assert_eq!(machine.output("busybox cat /sys/class/net/eth0/address"), "02:42:0a:63:00:02");
    machine.output("busybox ping -c 3 -W 5 10.99.0.1");
    machine.output("busybox ping -c 3 -W 5 -s 5000 10.99.0.1");

    // Out of the guest, with checksums and segmentation left to the host.
    let listener = TcpListener::bind("10.99.0.1:7000").unwrap();
    let receive = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut content = Vec::new();
        stream.read_to_end(&mut content).unwrap();
        content
    });
    machine.output("busybox head -c 8388608 /dev/urandom >/tmp/out; busybox nc 10.99.0.1 7000 </tmp/out");
    let out = receive.join().unwrap();
    assert_eq!(out.len(), 8 * MIB);

    // And into it.
    std::thread::scope(|scope| {
        let sum =
            scope.spawn(|| machine.output("busybox nc -l -p 7001 >/tmp/in; busybox cmp /tmp/in /tmp/out"));
        let mut stream = wait_for("the guest's listener", || TcpStream::connect("10.99.0.2:7001").ok());
        stream.write_all(&out).unwrap();
        drop(stream);
        sum.join().unwrap();
    });
    let statistics = machine.statistics();
    let traffic = statistics.net_tx_bytes.min(statistics.net_rx_bytes) as usize;
    assert!(traffic > 8 * MIB, "{statistics:?}");
    assert_eq!(statistics.net_drops, 0);
    // An interface that is down and up again is reset and set up anew under traffic.
    machine.output("for i in 1 2 3; do busybox ip link set eth0 down; busybox ip link set eth0 up; done");
    machine.output("busybox ping -c 3 -W 5 10.99.0.1");
}
