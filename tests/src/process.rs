//! What the system tells of a live process (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// A process by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub i32);

impl Process {
    /// Those whose command line has an argument, and another part anywhere.
    pub fn find(argument: &str, part: &str) -> Vec<Process> {
        let numbers = fs::read_dir("/proc").expect("read /proc").flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut found: Vec<_> = numbers
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.split('\0').any(|word| word == argument) && line.contains(part)
            })
            .map(Process)
            .collect();
        found.sort_by_key(|process| process.0);
        found
    }

    /// A path below its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    /// The text of one of its files.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The names in one of its directories.
    pub fn names(&self, name: &str) -> Vec<String> {
        let path = self.path(name);
        let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Its threads: number and name. Those that KVM has started for the VM are the kernel's.
    pub fn threads(&self) -> Vec<(i32, String)> {
        let named = |tid: String| {
            let name = self.read(&format!("task/{tid}/comm")).trim_end().to_owned();
            (tid.parse().expect("a thread's number"), name)
        };
        let threads = self.names("task").into_iter().map(named);
        threads.filter(|(_, name)| !name.starts_with("kvm-") && !name.starts_with("vhost-")).collect()
    }

    /// A field of its first thread's status.
    pub fn status(&self, field: &str) -> String {
        self.status_of(self.0, field)
    }

    fn status_of(&self, tid: i32, field: &str) -> String {
        let status = self.read(&format!("task/{tid}/status"));
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    }

    /// A field of the status of which all threads have the same value.
    pub fn common(&self, field: &str) -> String {
        let mut values: Vec<_> = self.threads().iter().map(|(tid, _)| self.status_of(*tid, field)).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 1, "{field} of process {}: {values:?}", self.0);
        values[0].clone()
    }

    /// The number of its namespace of a kind.
    pub fn namespace(&self, kind: &str) -> u64 {
        let path = self.path("ns").join(kind);
        fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).ino()
    }

    /// A resource's hard limit, by its name in the file `limits`.
    pub fn limit(&self, name: &str) -> u64 {
        let limits = self.read("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1)).expect("the limit is told");
        value.parse().unwrap_or(u64::MAX)
    }

    /// What its descriptors lead to.
    pub fn descriptors(&self) -> Vec<String> {
        let link = |fd: String| fs::read_link(self.path("fd").join(fd)).ok();
        let links = self.names("fd").into_iter().filter_map(link);
        links.map(|link| link.display().to_string()).collect()
    }

    /// What its threads have used of the host's processors, the guest's part included.
    pub fn cpu(&self) -> Duration {
        self.ticks(14) + self.ticks(15)
    }

    /// The same, with what its children that have ended have used, and theirs.
    pub fn cpu_with_children(&self) -> Duration {
        self.cpu() + self.ticks(16) + self.ticks(17)
    }

    /// The guest's part of it.
    pub fn guest_cpu(&self) -> Duration {
        self.ticks(43)
    }

    /// A field of its state that counts clock ticks: USER_HZ is 100 on every Linux that husk runs on.
    fn ticks(&self, field: usize) -> Duration {
        let stat = self.read("stat");
        let (_, rest) = stat.rsplit_once(')').expect("its name is in parentheses");
        let ticks = rest.split_whitespace().nth(field - 3).and_then(|ticks| ticks.parse::<u64>().ok());
        Duration::from_millis(10 * ticks.expect("a number"))
    }

    /// All of its memory.
    pub fn memory(&self) -> Memory {
        let rollup = self.read("smaps_rollup");
        let kib = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            value.unwrap_or_else(|| panic!("no {name} in {rollup}"))
        };
        Memory { rss: kib("Rss:"), pss: kib("Pss:"), anonymous: kib("Anonymous:") }
    }

    /// A monitor's own memory, and that of its largest mapping, which is the guest's.
    pub fn monitor_memory(&self) -> (Memory, Memory) {
        let mut mappings: Vec<(u64, Memory)> = Vec::new();
        for line in self.read("smaps").lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let Some(kib) = value.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok())
            else {
                continue;
            };
            match (name, mappings.last_mut()) {
                ("Size", _) => mappings.push((kib, Memory::default())),
                ("Rss", Some((_, memory))) => memory.rss = kib,
                ("Pss", Some((_, memory))) => memory.pss = kib,
                ("Anonymous", Some((_, memory))) => memory.anonymous = kib,
                _ => {}
            }
        }
        let largest =
            (0..mappings.len()).max_by_key(|index| mappings[*index].0).expect("a process has mappings");
        let (_, guest) = mappings.swap_remove(largest);
        let own = mappings.iter().fold(Memory::default(), |sum, (_, memory)| Memory {
            rss: sum.rss + memory.rss,
            pss: sum.pss + memory.pss,
            anonymous: sum.anonymous + memory.anonymous,
        });
        (own, guest)
    }
}

/// Memory, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// The same with what is shared divided among those who share it.
    pub pss: u64,
    /// Resident and of no file: what only this process, and its control group, pays for.
    pub anonymous: u64,
}
