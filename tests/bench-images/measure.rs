//! What an operation costs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use husk_tests::run;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// The cost of one pull, or of several.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of user and system time of all processes.
    pub cpu: f64,
    /// Bytes that the store then takes on disk.
    pub disk: u64,
}

/// Runs `work`, whose child processes count, and with them what `daemon` says of another's CPU seconds.
pub fn measure<E>(daemon: impl Fn() -> f64, work: impl FnOnce() -> Result<(), E>) -> Result<(f64, f64), E> {
    // What others have written is on the disk already, and not in the way.
    run(&mut Command::new("sync"));
    let (before, begun) = (children() + daemon(), Instant::now());
    work()?;
    Ok((begun.elapsed().as_secs_f64(), children() + daemon() - before))
}

/// CPU seconds of this process's children that have ended, and of theirs.
fn children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
}

/// Bytes of allocated blocks below `dir`, hard links counted once, as du(1) does.
pub fn disk_use(dir: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display())) {
            let entry = entry.expect("read a directory");
            let metadata = entry.metadata().expect("look at a file");
            if seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    bytes
}
