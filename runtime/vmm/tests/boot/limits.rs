//! Rate limits. Tests know the least time that work must take, and none that it may take at most.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use husk_vmm::config::{NetConfig, Rate, RateLimit};

use crate::Test;
use crate::disks::{MIB, content, device, file, wait_for_size};
use crate::machine::{Machine, wait_for};
use crate::network::tap;

pub const TESTS: &[Test] =
    &[("a limited disk is no faster than its limit", disk), ("a limited interface likewise", interface)];

fn bytes(per_second: usize, burst: usize) -> RateLimit {
    let rate = Rate { per_second: per_second as u64, burst: burst as u64 };
    RateLimit { operations: None, bytes: Some(rate) }
}

fn disk() {
    let limited = Machine::boot_changed(|config| config.limits.block = bytes(4 * MIB, MIB));
    let free = Machine::boot();
    for machine in [&limited, &free] {
        machine.attach(0, true, &[&file(&content(8 * MIB))]).unwrap();
        wait_for_size(machine, &device(machine, 0), 8 * MIB);
    }
    let read = |machine: &Machine| {
        let device = device(machine, 0);
        machine.output(&format!("busybox dd if=/dev/{device} of=/dev/null bs=64k 2>/dev/null"));
    };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| read(&limited));
        // Its other devices go on meanwhile, and so does another VM.
        read(&free);
        let mut answers = 0;
        while !work.is_finished() {
            assert_eq!(limited.output("echo on"), "on");
            answers += 1;
        }
        work.join().unwrap();
        println!("a limited disk: 8 MiB in {:?}; {answers} commands meanwhile", begin.elapsed());
    });
    // 4 MiB a second, but for the burst and one request.
    assert!(begin.elapsed() >= Duration::from_millis(1250), "{:?}", begin.elapsed());
    let statistics = limited.statistics();
    let disk = statistics.devices.iter().find(|device| device.name == "block0").unwrap();
    assert!(disk.read_bytes >= 8 * MIB as u64 && disk.reads > 0 && disk.waits > 0, "{disk:?}");
    assert_eq!(disk.latency_us.iter().sum::<u64>(), disk.reads + disk.writes + disk.others + disk.errors);
    assert_eq!(statistics.memory_mib, 256);
    assert!(free.statistics().devices.iter().all(|device| device.waits == 0));
}

fn interface() {
    let tap = tap("husk-test1");
    let net = NetConfig {
        tap_fds: vec![tap.as_raw_fd()],
        queues: 1,
        mac: "02:42:0a:63:00:02".to_owned(),
        mtu: 1400,
    };
    let machine = Machine::boot_changed(|config| {
        config.nets = vec![net];
        config.limits.net_rx = bytes(2 * MIB, 64 << 10);
        config.limits.net_tx = bytes(2 * MIB, 64 << 10);
    });
    drop(tap);
    machine.output("busybox ip addr add 10.99.0.2/24 dev eth0 && busybox ip link set eth0 up");
    machine.output("busybox ping -c 3 -W 5 10.99.0.1");
    let listener = TcpListener::bind("10.99.0.1:7002").unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let receive = scope.spawn(|| {
            let mut content = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut content).unwrap();
            content.len()
        });
        machine.output("busybox head -c 4194304 /dev/zero | busybox nc 10.99.0.1 7002");
        assert_eq!(receive.join().unwrap(), 4 * MIB);
    });
    let least = Duration::from_millis(1900);
    assert!(begin.elapsed() >= least, "out: {:?}", begin.elapsed());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let receive = scope.spawn(|| machine.output("busybox nc -l -p 7003 | busybox wc -c"));
        let mut stream = wait_for("the guest's listener", || TcpStream::connect("10.99.0.2:7003").ok());
        stream.write_all(&vec![0; 4 * MIB]).unwrap();
        drop(stream);
        assert_eq!(receive.join().unwrap(), (4 * MIB).to_string());
    });
    assert!(begin.elapsed() >= least, "in: {:?}", begin.elapsed());
    let statistics = machine.statistics();
    let net = statistics.devices.iter().find(|device| device.name == "net0").unwrap();
    assert!(net.waits > 0 && net.reads > 0 && net.writes > 0, "{net:?}");
}
