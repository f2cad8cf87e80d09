//! A tap of the host as the guest's interface.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use husk_vmm::config::NetConfig;

use crate::Test;
use crate::machine::{Machine, PATIENCE, wait_for};

pub const TESTS: &[Test] = &[
    ("the guest and the host reach each other", reach_each_other),
    ("two vCPUs send and receive over two pairs of queues", two_pairs),
    ("one vCPU uses one pair of queues of two", pairs_as_wanted),
];

const MIB: usize = 1 << 20;

/// A tap with 10.99.0.1/24, which the VMM inherits.
pub fn tap(name: &str) -> OwnedFd {
    taps(name, 1).remove(0)
}

/// The same, of so many queues.
pub fn taps(name: &str, queues: u8) -> Vec<OwnedFd> {
    let taps = husk_vmm::make_tap(name, queues).unwrap();
    for tap in &taps {
        rustix::io::fcntl_setfd(tap, rustix::io::FdFlags::empty()).unwrap();
    }
    for arguments in
        [vec!["addr", "add", "10.99.0.1/24", "dev", name], vec!["link", "set", name, "mtu", "1400", "up"]]
    {
        let status = Command::new("ip").env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(arguments).status();
        assert!(status.unwrap().success());
    }
    taps
}

/// A port of the host's that is free, whatever a test before this one has left waiting.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("10.99.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn reach_each_other() {
    let tap = tap("husk-test0");
    let net = NetConfig {
        tap_fds: vec![tap.as_raw_fd()],
        queues: 1,
        mac: "02:42:0a:63:00:02".to_owned(),
        mtu: 1400,
    };
    let machine = Machine::boot_with(vec![net]);
    drop(tap);
    machine.output("busybox ip addr add 10.99.0.2/24 dev eth0 && busybox ip link set eth0 up");
    assert_eq!(machine.output("busybox cat /sys/class/net/eth0/mtu"), "1400");
    assert_eq!(machine.output("busybox cat /sys/class/net/eth0/address"), "02:42:0a:63:00:02");
    machine.output("busybox ping -c 3 -W 5 10.99.0.1");
    machine.output("busybox ping -c 3 -W 5 -s 5000 10.99.0.1");

    // Out of the guest, with checksums and segmentation left to the host.
    let (listener, port) = listener();
    let receive = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut content = Vec::new();
        stream.read_to_end(&mut content).unwrap();
        content
    });
    machine.output("busybox head -c 2097152 /dev/urandom >/tmp/out");
    machine.output(&format!("busybox nc 10.99.0.1 {port} </tmp/out"));
    let out = receive.join().unwrap();
    assert_eq!(out.len(), 2 * MIB);

    // And into it.
    std::thread::scope(|scope| {
        let sum =
            scope.spawn(|| machine.output("busybox nc -l -p 7001 >/tmp/in; busybox cmp /tmp/in /tmp/out"));
        let mut stream = wait_for("the guest's listener", || TcpStream::connect("10.99.0.2:7001").ok());
        // A guest that is gone acknowledges nothing.
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&out).unwrap();
        drop(stream);
        sum.join().unwrap();
    });
    let statistics = machine.statistics();
    let traffic = statistics.net_tx_bytes.min(statistics.net_rx_bytes) as usize;
    assert!(traffic > 2 * MIB, "{statistics:?}");
    assert_eq!(statistics.net_drops, 0);
    // An interface that is down and up again is reset and set up anew under traffic.
    machine.output("for i in 1 2 3; do busybox ip link set eth0 down; busybox ip link set eth0 up; done");
    machine.output("busybox ping -c 3 -W 5 10.99.0.1");
}

/// An interface with two pairs of queues.
pub fn two_queues(taps: &[OwnedFd]) -> NetConfig {
    NetConfig {
        tap_fds: taps.iter().map(OwnedFd::as_raw_fd).collect(),
        queues: 2,
        mac: "02:42:0a:63:00:02".to_owned(),
        mtu: 1400,
    }
}

fn set_up(machine: &Machine) {
    machine.output("busybox ip addr add 10.99.0.2/24 dev eth0 && busybox ip link set eth0 up");
    machine.output("busybox ping -c 3 -W 5 10.99.0.1");
}

fn queues(machine: &Machine) -> String {
    machine.output("busybox ls /sys/class/net/eth0/queues | busybox tr '\\n' ' '").trim().to_owned()
}

/// Frames both ways of each pair of queues.
fn frames(machine: &Machine) -> [u64; 2] {
    let devices = machine.statistics().devices;
    ["net0", "net0.1"].map(|name| {
        let device = devices.iter().find(|device| device.name == name).unwrap();
        device.reads.min(device.writes)
    })
}

/// Both vCPUs send a piece over each of a few connections, all of which is answered.
fn talk(machine: &Machine) {
    const CONNECTIONS: usize = 4;
    let (listener, port) = listener();
    let echo = std::thread::spawn(move || {
        let echoes: Vec<_> = (0..2 * CONNECTIONS)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || {
                    let mut content = Vec::new();
                    stream.read_to_end(&mut content).unwrap();
                    stream.write_all(&content).unwrap();
                })
            })
            .collect();
        echoes.into_iter().for_each(|echo| echo.join().unwrap());
    });
    machine.output("busybox head -c 262144 /dev/urandom >/tmp/piece");
    let client =
        format!("busybox taskset $mask busybox nc 10.99.0.1 {port} </tmp/piece >/tmp/back.$mask.$n &");
    machine.output(&format!(
        "for mask in 1 2; do for n in $(busybox seq {CONNECTIONS}); do {client} done; done; wait"
    ));
    machine.output(
        "for back in /tmp/back.*; do busybox cmp /tmp/piece $back || exit 1; done; busybox rm /tmp/back.*",
    );
    echo.join().unwrap();
}

/// Gives the guest its address, and has both of its pairs carry something.
pub fn over_two_pairs(machine: &Machine) {
    set_up(machine);
    assert_eq!(queues(machine), "rx-0 rx-1 tx-0 tx-1");
    talk(machine);
    let frames = frames(machine);
    assert!(frames.iter().all(|frames| *frames > 100), "{frames:?}");
    assert_eq!(machine.statistics().net_drops, 0);
}

fn two_pairs() {
    let taps = taps("husk-test0", 2);
    let machine = Machine::boot_with(vec![two_queues(&taps)]);
    drop(taps);
    over_two_pairs(&machine);
    let first = frames(&machine);
    // Set up anew, and with a driver that has been taken away and given back.
    machine.output("busybox ip link set eth0 down; busybox ip link set eth0 up");
    let device = "$(busybox basename $(busybox readlink /sys/class/net/eth0/device))";
    let driver = "/sys/bus/virtio/drivers/virtio_net";
    machine.output(&format!("d={device}; echo $d >{driver}/unbind; echo $d >{driver}/bind"));
    set_up(&machine);
    talk(&machine);
    let second = frames(&machine);
    assert!(second.iter().zip(first).all(|(frames, first)| *frames > first + 100), "{first:?}, {second:?}");
}

fn pairs_as_wanted() {
    let taps = taps("husk-test0", 2);
    let net = two_queues(&taps);
    let machine = Machine::boot_changed(|config| (config.vcpus, config.nets) = (1, vec![net]));
    drop(taps);
    set_up(&machine);
    assert_eq!(queues(&machine), "rx-0 tx-0");
    // What the host's kernel would put into the other queue were lost.
    machine.output("busybox ping -c 20 -i 0.1 -W 5 10.99.0.1");
    assert_eq!(frames(&machine)[1], 0);
    machine.output("echo 1 >/sys/devices/system/cpu/cpu1/online");
    talk(&machine);
    assert_eq!((frames(&machine)[1], machine.statistics().net_drops), (0, 0));
}
