//! What the daemon and the node hold.

use std::fs;
use std::path::Path;

use husk_tests::{Bed, Process};

/// At one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauge {
    /// The daemon's open descriptors.
    pub descriptors: usize,
    /// Its threads.
    pub threads: usize,
    /// Its resident memory, KiB.
    pub rss: u64,
    /// Processes of the node that are the daemon's or name a file of it.
    pub processes: usize,
    /// Files below its two directories.
    pub files: usize,
    /// Mounts of the host.
    pub mounts: usize,
    /// Network links of the host.
    pub links: usize,
    /// Control groups of the host.
    pub cgroups: usize,
    /// Memory that the host's programs do not have, KiB.
    pub available: u64,
    /// The kernel's own memory that cannot be had back, KiB.
    pub slab: u64,
}

impl Gauge {
    /// Reads all of it.
    pub fn read(bed: &Bed) -> Gauge {
        let daemon = Process(i32::try_from(bed.daemon.pid()).expect("a process id"));
        let config = bed.daemon.config.parent().expect("the configuration is in the node's directory");
        Gauge {
            descriptors: daemon.descriptors().len(),
            threads: daemon.threads().len(),
            rss: daemon.memory().rss,
            processes: processes(config),
            files: count(&bed.daemon.run) + count(&bed.daemon.root),
            mounts: fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo").lines().count(),
            links: fs::read_dir("/sys/class/net").expect("list links").count(),
            cgroups: directories(Path::new("/sys/fs/cgroup")),
            available: meminfo("MemAvailable"),
            slab: meminfo("SUnreclaim"),
        }
    }

    /// The table's head.
    pub fn head() -> String {
        format!(
            "{:>12}{:>9}{:>12}{:>11}{:>7}{:>8}{:>7}{:>9}{:>16}{:>13}",
            "descriptors",
            "threads",
            "RSS, KiB",
            "processes",
            "files",
            "mounts",
            "links",
            "cgroups",
            "available, MiB",
            "slab, MiB"
        )
    }

    /// Its line of the table.
    pub fn row(&self) -> String {
        format!(
            "{:>12}{:>9}{:>12}{:>11}{:>7}{:>8}{:>7}{:>9}{:>16}{:>13}",
            self.descriptors,
            self.threads,
            self.rss,
            self.processes,
            self.files,
            self.mounts,
            self.links,
            self.cgroups,
            self.available / 1024,
            self.slab / 1024
        )
    }
}

fn processes(dir: &Path) -> usize {
    let dir = dir.display().to_string();
    let pids = fs::read_dir("/proc").expect("read /proc").flatten();
    let lines = pids.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(&dir)).count()
}

/// Everything below a directory but directories; what goes while it is counted is not.
fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn directories(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + directories(&entry.path())).sum()
}

fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("read meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("meminfo has it")
}
