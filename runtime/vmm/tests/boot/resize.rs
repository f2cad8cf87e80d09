//! Memory and CPUs that come and go.

use std::ops::RangeInclusive;

use husk_vmm::config::HotplugConfig;
use husk_vmm::control::{Reply, Request};

use crate::Test;
use crate::machine::{Machine, wait_for};

pub const TESTS: &[Test] = &[
    ("a guest grows and shrinks, and the host has its memory back", grows_and_shrinks),
    ("a guest plugs what it was told to at its start", plugs_at_its_start),
    ("a guest brings further CPUs online", more_cpus),
    ("a size that cannot be is refused", impossible_sizes),
];

const PATIENCE_MS: u32 = 30_000;

fn resize(machine: &Machine, memory_mib: u32) -> u32 {
    match machine.request(&Request::Resize { memory_mib, patience_ms: PATIENCE_MS }, &[]).unwrap() {
        Reply::Memory(mib) => mib,
        other => panic!("{other:?}"),
    }
}

fn total_mib(machine: &Machine) -> u32 {
    let kib: u32 = machine.output("busybox awk '/MemTotal/ {print $2}' /proc/meminfo").parse().unwrap();
    kib >> 10
}

/// Waits until the guest has so much, MiB: its kernel makes use of memory a moment after it was plugged.
fn has(machine: &Machine, expected: RangeInclusive<u32>) {
    wait_for(&format!("memory of {expected:?} MiB"), || expected.contains(&total_mib(machine)).then_some(()));
}

/// What the VMM's process has of the host's memory, MiB.
fn resident_mib(machine: &Machine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

fn grows_and_shrinks() {
    let machine = Machine::boot();
    let first = total_mib(&machine);
    assert_eq!(resize(&machine, 256), 256);
    // A part of a slot, and more than one.
    assert_eq!(resize(&machine, 300), 300);
    has(&machine, first + 30..=first + 44);
    assert_eq!(resize(&machine, 768), 768);
    has(&machine, first + 480..=first + 512);
    // It is good for something: more than the guest booted with is written, and read back.
    machine.output("busybox mkdir /big && busybox mount -t tmpfs -o size=500m tmpfs /big");
    machine.output("busybox head -c 4m /dev/urandom >/big/piece");
    machine.output("for i in $(busybox seq 75); do busybox cat /big/piece; done >/big/file");
    let sum = machine.output("busybox md5sum </big/file");
    let full = resident_mib(&machine);
    assert!(full > 330, "{full} MiB are resident");
    assert_eq!(machine.output("busybox md5sum </big/file"), sum);
    machine.output("busybox umount /big");
    // It goes back; what the kernel cannot move stays, and the driver tries again.
    let left = resize(&machine, 256);
    assert!(left <= 384, "{left} MiB are left");
    has(&machine, first - 8..=first + left - 256);
    let resident = resident_mib(&machine);
    assert!(resident <= full - 100, "{full} MiB were resident, and {resident} MiB are");
    // And again.
    assert_eq!(resize(&machine, 512), 512);
}

fn plugs_at_its_start() {
    let machine = Machine::boot_changed(|config| {
        config.memory_mib = 128;
        config.hotplug = Some(HotplugConfig { limit_mib: 1024, requested_mib: 200 });
    });
    assert_eq!(resize(&machine, 328), 328);
    has(&machine, 270..=328);
}

fn more_cpus() {
    let machine = Machine::boot();
    assert_eq!(machine.output("busybox nproc"), "2");
    assert_eq!(machine.output("busybox cat /sys/devices/system/cpu/present"), "0-2");
    machine.output("echo 1 >/sys/devices/system/cpu/cpu2/online");
    assert_eq!(machine.output("busybox nproc"), "3");
    machine.output("busybox taskset 4 busybox sh -c 'for i in $(busybox seq 2000); do :; done'");
    machine.output("echo 0 >/sys/devices/system/cpu/cpu2/online");
    assert_eq!(machine.output("busybox nproc"), "2");
    // Its place in the guest is as before.
    machine.output("echo 1 >/sys/devices/system/cpu/cpu2/online");
    assert_eq!(machine.output("busybox nproc"), "3");
}

fn impossible_sizes() {
    let machine = Machine::boot();
    let refused = |memory_mib| {
        let request = Request::Resize { memory_mib, patience_ms: 0 };
        machine.request(&request, &[]).unwrap_err().to_string()
    };
    assert!(refused(1281).contains("1281 MiB is more than the 1280 MiB"), "{}", refused(1281));
    assert!(refused(u32::MAX).contains("4294967295"));
    // Never less than what it booted with.
    assert_eq!(resize(&machine, 0), 256);
    let fixed = Machine::boot_changed(|config| config.hotplug = None);
    let none = fixed.request(&Request::Resize { memory_mib: 300, patience_ms: 0 }, &[]).unwrap_err();
    assert!(none.to_string().contains("hotplug"), "{none}");
}
