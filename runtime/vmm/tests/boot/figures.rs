//! Figures of a boot, and the bounds that hold on any host.

use std::fs;

use crate::Test;
use crate::machine::{self, Machine};

pub const TESTS: &[Test] = &[("a boot's time and memory", time_and_memory)];

/// The VMM's own memory: its code, heap, stacks and queues, in KiB.
const OWN_MEMORY_MAX: u64 = 8 << 10;

fn time_and_memory() {
    let mut times: Vec<_> = Vec::new();
    let (mut own, mut guest) = (0, 0);
    for _ in 0..5 {
        let machine = Machine::boot();
        let kernel: f64 =
            machine.output("busybox cat /proc/uptime").split(' ').next().unwrap().parse().unwrap();
        times.push((machine.up_after, kernel));
        (own, guest) = resident(&machine);
    }
    times.sort_by_key(|(up_after, _)| *up_after);
    let (up_after, _) = times[times.len() / 2];
    println!(
        "boot: {} ms from the VMM's start to the guest's init (median of {}); the VMM itself {own} KiB, its \
         guest {guest} KiB resident; kernel {} MiB",
        up_after.as_millis(),
        times.len(),
        fs::metadata(machine::kernel()).unwrap().len() >> 20
    );
    assert!(own < OWN_MEMORY_MAX, "{own} KiB");
}

/// KiB resident of the VMM without, and of, the guest's memory: the one mapping of its size.
fn resident(machine: &Machine) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", machine.process.id())).unwrap();
    let kib = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let (mut own, mut guest, mut size) = (0, 0, 0);
    for line in maps.lines() {
        if line.starts_with("Size:") {
            size = kib(line);
        } else if line.starts_with("Rss:") {
            let part = if size >= 256 << 10 { &mut guest } else { &mut own };
            *part += kib(line);
        }
    }
    (own, guest)
}
