//! The cgroup (v2) of a container: figures, kills, removal.

mod devices;
mod stats;
mod update;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxDeviceCgroup;

use crate::error::{Context, Result};
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

    /// Whether the kernel has killed one of its processes for want of memory.
    pub fn oom_killed(&self) -> bool {
        self.read("memory.events")
            .is_ok_and(|events| keyed(&events, "oom_kill").is_some_and(|kills| kills > 0))
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

/// The value of `key` in a file of "key value" lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_values() {
        let text = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(keyed(text, "oom_kill"), Some(2));
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "oo"), None);
        assert_eq!(keyed("x y", "x"), None);
    }
}
