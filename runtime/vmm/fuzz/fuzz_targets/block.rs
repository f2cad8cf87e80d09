//! Requests to a disk whose medium comes and goes. What a read-only medium's file holds never changes.
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use husk_vmm::config::{Rate, RateLimit};
use husk_vmm::control::Extent;
use husk_vmm::fuzzing::{Block, ExitCell, Limiter, Medium, Pool, Slot, Starting, Ticket};
use husk_vmm_fuzz::{Step, World, memory_file};

/// Bytes of a medium: two pieces of its file, and zeroes beyond its end.
const PIECE: u64 = 16 << 10;

fn medium(file: &File, read_only: bool) -> Medium {
    let extents = [
        Extent { fd: 0, offset: 4096, length: PIECE },
        Extent { fd: 1, offset: PIECE + 4096, length: 2 * PIECE },
    ];
    let files: Vec<OwnedFd> = (0..2).map(|_| file.try_clone().expect("a descriptor").into()).collect();
    Medium::new(read_only, &extents, files).expect("a medium")
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 3 * PIECE as usize];
    file.read_exact_at(&mut bytes, 0).expect("read the file");
    bytes
}

/// One for all: its threads end with their process.
fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let filter = husk_jail::seccomp::deny(&[libc::SYS_ptrace]).expect("a filter");
        let pool = Pool::default();
        pool.start(&filter, &ExitCell::default(), &mut Starting::default()).expect("threads");
        pool
    })
}

/// The bytes are the limits' rates; zero: none.
fn limit(operations: u8, bytes: u8) -> Ticket {
    let rate = |per_second: u64| (per_second > 0).then_some(Rate { per_second, burst: 1 });
    let limit =
        RateLimit { operations: rate(u64::from(operations) * 20), bytes: rate(u64::from(bytes) << 14) };
    Ticket::new(Limiter::new(limit).as_ref()).expect("a ticket")
}

libfuzzer_sys::fuzz_target!(|input: (bool, u8, u8, u8, Vec<Step>)| {
    let (read_only, vcpus, operations, bytes, steps) = input;
    let file = memory_file(&vec![7; 3 * PIECE as usize]);
    let mut world = World::new();
    let (identity, interrupt) = (Block::identity(vcpus), World::interrupt());
    let slot = Slot::new(0, identity.config.clone(), interrupt.clone(), world.worker.clone(), pool());
    let slot = Arc::new(slot.expect("a slot"));
    let device = Block::new(slot.clone(), limit(operations, bytes), Default::default());
    world.plug(identity, Box::new(device), interrupt);
    let _ = slot.attach(medium(&file, read_only));
    world.play(&steps, |_, what, _| match what % 2 {
        0 => drop(slot.detach()),
        _ => drop(slot.attach(medium(&file, read_only))),
    });
    let bytes = content(&file);
    let untouched = if read_only { 0..bytes.len() } else { 0..4096 };
    assert!(
        bytes[untouched].iter().all(|byte| *byte == 7),
        "bytes that are not the guest's to write have changed"
    );
});
