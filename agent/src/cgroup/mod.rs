//! The cgroup (v2) of a container: figures, kills, removal.

mod devices;
mod update;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_proto::agent::StatsResponse;
use oci_spec::runtime::LinuxDeviceCgroup;

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::sys;

/// Where the guest's cgroup hierarchy is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The file that says which controllers the cgroups below have.
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// The cgroup above all containers'.
pub fn all() -> Cgroup {
    Cgroup(Path::new(MOUNT).join("pods"))
}

/// Makes every controller available to the containers' cgroups.
pub fn prepare() -> Result<()> {
    let root = Cgroup(PathBuf::from(MOUNT));
    let controllers: Vec<String> =
        root.read("cgroup.controllers")?.split_whitespace().map(|name| format!("+{name}")).collect();
    all().create(None)?;
    for cgroup in [root, all()] {
        let path = cgroup.0.join(SUBTREE_CONTROL);
        fs::write(&path, controllers.join(" ")).context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A container's cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Of the container `id`, which has been checked.
    pub fn of(id: &str) -> Self {
        Self(all().0.join(id))
    }

    /// Makes it, as yet without members, and with no limits but those on devices.
    pub fn create(&self, devices: Option<&[LinuxDeviceCgroup]>) -> Result<()> {
        fs::create_dir_all(&self.0).context(|| format!("making {}", self.0.display()))?;
        devices.map_or(Ok(()), |rules| devices::restrict(&self.0, rules))
    }

    /// As it stands in an OCI spec.
    pub fn spec_path(id: &str) -> PathBuf {
        Path::new("/pods").join(id)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).context(|| format!("reading {}", path.display()))
    }

    fn number(&self, file: &str) -> Result<u64> {
        Ok(self.read(file)?.trim().parse().unwrap_or(0))
    }

    /// Whether the kernel has killed one of its processes for want of memory.
    pub fn oom_killed(&self) -> bool {
        self.read("memory.events").is_ok_and(|events| keyed(&events, "oom_kill") > 0)
    }

    /// The pids of its processes.
    pub fn processes(&self) -> Result<Vec<i32>> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Sends a signal to each of its processes; SIGKILL reaches those just being made as well.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.kill();
        }
        for pid in self.processes()? {
            match sys::kill(pid, signal) {
                Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(e).context(|| format!("sending signal {signal} to process {pid}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills all of its processes.
    pub fn kill(&self) -> Result<()> {
        let path = self.0.join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.context(|| format!("writing {}", path.display())),
        }
    }

    /// Kills what is left and removes the cgroup and those below it, waiting up to ten seconds.
    pub async fn remove(&self) -> Result<()> {
        self.kill()?;
        let mut pause = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        loop {
            match remove_tree(&self.0) {
                Ok(()) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && waited < Duration::from_secs(10) => {}
                Err(e) => return Err(e).context(|| format!("removing {}", self.0.display())),
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Figures of the cgroup; those of the writable layer are left zero.
    pub fn stats(&self) -> Result<StatsResponse> {
        if !self.0.exists() {
            return Err(Error::State("the container does not run".into()));
        }
        let cpu = self.read("cpu.stat")?;
        let memory = self.read("memory.stat").unwrap_or_default();
        let usage = self.number("memory.current").unwrap_or(0);
        Ok(StatsResponse {
            time_nanos: clock::now_nanos(),
            cpu_usage_nanos: keyed(&cpu, "usage_usec").saturating_mul(1000),
            memory_usage_bytes: usage,
            // What kubelet evicts by: usage without the page cache that can be dropped at once.
            memory_working_set_bytes: usage.saturating_sub(keyed(&memory, "inactive_file")),
            memory_rss_bytes: keyed(&memory, "anon"),
            page_faults: keyed(&memory, "pgfault"),
            major_page_faults: keyed(&memory, "pgmajfault"),
            pids: self.number("pids.current").unwrap_or(0),
            writable_bytes: 0,
            writable_inodes: 0,
        })
    }
}

/// A container may have made cgroups below its own: removed from the deepest up. The kernel bounds neither
/// their number nor their depth, so the walk keeps its own stack.
fn remove_tree(top: &Path) -> io::Result<()> {
    let mut stack = vec![top.to_owned()];
    while let Some(directory) = stack.last().cloned() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                stack.pop();
                continue;
            }
            Err(e) => return Err(e),
        };
        let child = entries
            .filter_map(std::result::Result::ok)
            .find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        match child {
            Some(child) => stack.push(child.path()),
            None => {
                match fs::remove_dir(&directory) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                stack.pop();
            }
        }
    }
    Ok(())
}

/// The value of `key` in a file of "key value" lines; 0 when it is not there.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_values() {
        let text = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(keyed(text, "oom_kill"), 2);
        assert_eq!(keyed(text, "oom"), 3);
        assert_eq!(keyed(text, "oo"), 0);
        assert_eq!(keyed("x y", "x"), 0);
    }

    #[test]
    fn figures_are_read_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1\n"),
            ("memory.stat", "anon 10\ninactive_file 30\npgfault 5\npgmajfault 1\n"),
            ("memory.current", "100\n"),
            ("pids.current", "3\n"),
            ("memory.events", "oom_kill 1\n"),
        ] {
            fs::write(dir.path().join(file), content).unwrap();
        }
        let cgroup = Cgroup(dir.path().to_owned());
        let stats = cgroup.stats().unwrap();
        assert_eq!(stats.cpu_usage_nanos, 1_500_000);
        assert_eq!(stats.memory_working_set_bytes, 70);
        assert_eq!((stats.memory_rss_bytes, stats.pids), (10, 3));
        assert!(cgroup.oom_killed());
    }
}
