//! What the system tells of a live process (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

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
}
