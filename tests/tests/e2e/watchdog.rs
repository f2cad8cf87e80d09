//! Ends the tests when one holds its thread: where a call blocks, no limit of the async runtime is heeded.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// Watches one test, until it is dropped.
pub struct Watchdog {
    _watched: Sender<()>,
}

impl Watchdog {
    /// Ends the whole program when it lives longer than `limit`, and tells where all threads of the host are.
    pub fn watch(name: &str, limit: Duration) -> Self {
        let (watched, ended) = mpsc::channel();
        let name = name.to_owned();
        std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                println!("{name} has held its thread for {} s; the host's threads:", limit.as_secs());
                threads();
                std::process::abort();
            }
        });
        Self { _watched: watched }
    }
}

/// Prints the state of each thread of each program, its place in the kernel, and of those that nothing can wake its
/// stack there (proc(5)).
fn threads() {
    let entries =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for process in entries("/proc".into()) {
        // Kernel threads have no arguments.
        let Some(arguments) = fs::read(process.join("cmdline")).ok().filter(|bytes| !bytes.is_empty()) else {
            continue;
        };
        let arguments: String =
            String::from_utf8_lossy(&arguments).replace('\0', " ").chars().take(100).collect();
        println!("{} {arguments}", process.display());
        for thread in entries(process.join("task")) {
            let read = |name| fs::read_to_string(thread.join(name)).unwrap_or_default();
            let stat = read("stat");
            let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest.get(..1).unwrap_or_default());
            println!("  {} {state} {} {}", read("comm").trim(), read("wchan"), read("syscall").trim());
            if state == "D" {
                println!("{}", read("stack"));
            }
        }
    }
}
