//! What a guest finds, and what the host can ask while it runs.

use std::io::{Read, Write};
use std::time::Duration;

use husk_vmm::control::{Reply, Request, VmState};

use crate::Test;
use crate::guest::ECHO_PORT;
use crate::machine::Machine;

pub const TESTS: &[Test] = &[
    ("a guest finds its machine", finds_its_machine),
    ("a paused guest does nothing until it is resumed", pause_and_resume),
];

fn finds_its_machine() {
    let machine = Machine::boot();
    assert_eq!(machine.output("busybox nproc"), "2");
    assert!(machine.output("busybox cat /proc/cmdline").ends_with(" husk.test=1"));
    let kib: u32 = machine.output("busybox awk '/MemTotal/ {print $2}' /proc/meminfo").parse().unwrap();
    assert!((200 << 10..256 << 10).contains(&kib), "{kib} KiB");
    let random = || machine.output("busybox head -c 10000 /dev/hwrng | busybox sha256sum");
    assert_ne!(random(), random());
    let current = machine.output("busybox cat /sys/class/misc/hw_random/rng_current");
    assert!(current.starts_with("virtio_rng"), "{current}");
    machine.output("echo hello from the guest >/dev/console");
    assert!(machine.words().contains("hello from the guest"));
    // Interrupts of the second vCPU, and work on both.
    machine.output(
        "for i in 1 2 3 4; do busybox sh -c 'for i in $(busybox seq 20000); do :; done' & done; wait",
    );
    let exits = machine.statistics().exits;
    assert!(exits["io"] > 0 && exits["mmio"] > 0, "{exits:?}");
}

fn pause_and_resume() {
    let machine = Machine::boot();
    let state = || machine.request(&Request::State, &[]).unwrap();
    assert_eq!(state(), Reply::State(VmState::Running));
    let mut stream = machine.connect(ECHO_PORT).unwrap();
    for _ in 0..20 {
        assert_eq!(machine.request(&Request::Pause, &[]).unwrap(), Reply::Done);
        assert_eq!(state(), Reply::State(VmState::Paused));
        machine.request(&Request::Resume, &[]).unwrap();
    }
    machine.request(&Request::Pause, &[]).unwrap();
    stream.write_all(b"anyone?").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut got = [0; 7];
    assert!(stream.read(&mut got).is_err());
    machine.request(&Request::Resume, &[]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"anyone?");
}
