//! Return thunks: what the monitor makes of them is what the kernel makes of them itself.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use husk_vmm::host_cpus;

use crate::Test;
use crate::machine::{self, Machine};

pub const TESTS: &[Test] = &[("returns as the kernel makes them", as_the_kernel_makes_them)];

const MADE: &str = "returns made plain";
/// Where the kernel's code begins in memory (CONFIG_PHYSICAL_START), and the code itself.
const PLACE: u64 = 16 << 20;
const JUMP: u8 = 0xe9;
/// `ret`, and what fills the jump's place.
const RETURN: [u8; 5] = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];

fn as_the_kernel_makes_them() {
    let file = fs::read(machine::kernel()).unwrap();
    let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    // The first program header is the code's (elf(5)).
    let headers = long(32);
    let (offset, length) = (long(headers + 8), long(headers + 32));
    assert_eq!(long(headers + 24) as u64, PLACE);
    let code = &file[offset..offset + length];
    let thunks = jumps_to_the_thunk(code);
    assert!(thunks.len() > 10_000, "{} jumps", thunks.len());

    let mut seen = Vec::new();
    for plain in [false, true] {
        let machine = Machine::boot_changed(|config| config.plain_returns = plain);
        let made = machine.statistics().marks.iter().any(|mark| mark.step == MADE);
        assert_eq!(made, plain);
        seen.push(in_memory(&machine, &file[offset..offset + 4096], length));
        if !host_cpus::returns_are_safe() {
            println!("not looked at: plain returns, as this host's CPUs can be misled at them");
            return;
        }
    }
    // Of some, the trampolines of its static calls, it makes jumps to what it calls by them.
    let mut returns = 0;
    for at in &thunks {
        let [own, ours] = [0, 1].map(|boot: usize| &seen[boot][*at..at + 5]);
        assert_eq!(own, ours, "at {at:#x}");
        returns += usize::from(ours == RETURN);
    }
    assert!(returns > thunks.len() / 100 * 99, "{returns} returns of {} jumps", thunks.len());
    // The kernel was as free to change the rest of itself.
    let differ = seen[0].iter().zip(&seen[1]).filter(|(one, other)| one != other).count();
    assert!(differ < 1000, "{differ} bytes differ");
}

/// Offsets of the jumps to where by far the most jumps of this length lead.
fn jumps_to_the_thunk(code: &[u8]) -> Vec<usize> {
    let mut by_target: HashMap<i64, Vec<usize>> = HashMap::new();
    for (at, jump) in code.windows(5).enumerate().filter(|(_, jump)| jump[0] == JUMP) {
        let target = at as i64 + 5 + i64::from(i32::from_le_bytes(jump[1..].try_into().unwrap()));
        by_target.entry(target).or_default().push(at);
    }
    by_target.into_values().max_by_key(Vec::len).unwrap_or_default()
}

/// The kernel's code in the guest's memory, which is where its first bytes are.
fn in_memory(machine: &Machine, first: &[u8], length: usize) -> Vec<u8> {
    let process = machine.process.id();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let large_pages = 2 << 20;
    for line in maps.lines() {
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let place = start.next_multiple_of(large_pages) + PLACE;
        let mut head = vec![0; 256];
        if memory.read_exact_at(&mut head, place).is_ok() && head[..64] == first[..64] {
            let mut code = vec![0; length];
            memory.read_exact_at(&mut code, place).unwrap();
            return code;
        }
    }
    panic!("the kernel's code is not where it is expected: {maps}");
}
