//! The pod's cgroup on the host: the VMM and what serves it live in `PARENT/husk-ID`, whose parent kubelet names
//! and limits.
//!
//! husk sets no limit there. kubelet's are on the parent, hold for all that is below it, and change while the pod
//! runs; a copy would be out of date. Without kubelet, what a guest can use is what its VM was given. Should the
//! VM's cgroup itself run out of memory, the kernel could only kill the whole VM, never one container.
//!
//! Which cgroup a pod has is written into its directory before it is made. Both are gone after a reboot.

mod figures;
mod hierarchy;
mod path;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

pub use figures::{Cpu, Memory};
pub use path::CgroupPath;

use crate::error::{Error, Result};
use crate::{mountinfo, vm};
use hierarchy::Hierarchy;

/// What conversion workers' cgroup is called in a pod's id's place, of which it is none.
const CONVERTERS: &str = "convert";

/// How long killed processes may take to be gone: they may be waiting for a disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// The hierarchies of the host in which pods' cgroups are made: all that are mounted and can be written.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

/// What a pod has used as its cgroup tells it; each None where nothing counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// CPU time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
}

/// The way into a pod's cgroup, for a process that is about to be started.
#[derive(Debug, Default)]
pub struct Door(Vec<File>);

impl Door {
    /// Lets the command's process join the cgroup before its program begins. To be called before anything else that
    /// the child does is added to the command.
    pub fn admit(self, command: &mut tokio::process::Command) {
        if !self.0.is_empty() {
            vm::sys::write_before_exec(command, self.0, b"0");
        }
    }
}

impl Cgroups {
    /// Those of this host.
    pub fn of_host() -> Cgroups {
        let mounts = std::fs::read_to_string(mountinfo::TABLE).unwrap_or_default();
        let mut hierarchies = Hierarchy::parse(&mounts);
        hierarchies.retain(Hierarchy::is_usable);
        Cgroups { hierarchies }
    }

    /// What there is, for a person; or what is missing, with the way out.
    pub fn describe(&self) -> Result<String, String> {
        let one = |each: &Hierarchy| match &each.controllers {
            None => format!("version 2 at {}", each.root.display()),
            Some(all) => format!("{} at {}", all.join(","), each.root.display()),
        };
        match self.hierarchies.as_slice() {
            [] => Err("no cgroup hierarchy is mounted and writable, so pods' VMs run without cgroups and kubelet's \
                       limits do not hold for them; mount -t cgroup2 cgroup2 /sys/fs/cgroup"
                .into()),
            [only] => Ok(one(only)),
            [first, others @ ..] => Ok(format!("{}, and {} more", one(first), others.len())),
        }
    }

    /// Makes a pod's cgroup, and its parent if that is not there.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the parent is none in one of the hierarchies. [`Self::remove`] undoes the rest then.
    pub fn make(&self, pod_dir: &Path, path: &CgroupPath) -> Result<()> {
        if self.hierarchies.is_empty() {
            return Ok(());
        }
        let note = note(pod_dir);
        std::fs::write(&note, path.to_string()).map_err(|e| Error::io("write", &note, e))?;
        for hierarchy in &self.hierarchies {
            hierarchy.make(path).map_err(|e| {
                let text = format!("cannot make the cgroup {path} in {}: {e}", hierarchy.root.display());
                if hierarchy::leads_astray(&e) { Error::Invalid(text) } else { Error::Internal(text) }
            })?;
        }
        Ok(())
    }

    /// Makes the cgroup of conversion workers, below `parent` as pods that name none; it stays. What is answered are the
    /// files by which processes join it, none where the parent is empty.
    ///
    /// # Errors
    /// What the system says.
    pub fn of_converters(&self, parent: &str) -> Result<Vec<PathBuf>> {
        let Some(path) = CgroupPath::of_pod("", parent, CONVERTERS)? else { return Ok(Vec::new()) };
        let make = |hierarchy: &Hierarchy| {
            let failed = |e| Error::io("make the cgroup of conversion workers in", &hierarchy.root, e);
            hierarchy.make(&path).map(|()| hierarchy.processes_path(&path)).map_err(failed)
        };
        self.hierarchies.iter().map(make).collect()
    }

    /// The most memory, in bytes, that the parent of a pod's cgroup allows; None: no limit.
    pub fn limit_above(&self, path: &CgroupPath) -> Option<u64> {
        self.memory_limit(&path.parent())
    }

    /// The way into a pod's cgroup; one that leads nowhere if the pod has none.
    pub fn door(&self, pod_dir: &Path) -> Result<Door> {
        let Some(path) = noted(pod_dir) else { return Ok(Door::default()) };
        let open = |hierarchy: &Hierarchy| {
            hierarchy.processes(&path).map_err(|e| {
                let text = format!("cannot open the cgroup {path} in {}: {e}", hierarchy.root.display());
                Error::Internal(text)
            })
        };
        self.hierarchies.iter().map(open).collect::<Result<_>>().map(Door)
    }

    /// Ends what is left in a pod's cgroup and removes it, never its parent. The pod need not have one.
    pub async fn remove(&self, pod_dir: &Path) -> Result<()> {
        let Some(path) = noted(pod_dir) else { return Ok(()) };
        for hierarchy in &self.hierarchies {
            let begun = Instant::now();
            loop {
                match hierarchy.remove(&path) {
                    Ok(()) => break,
                    Err(Errno::BUSY) if begun.elapsed() < PATIENCE => {
                        // It may have become empty, and have been removed, meanwhile.
                        let _ = hierarchy.kill(&path);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(e) => {
                        let root = hierarchy.root.display();
                        return Err(Error::Internal(format!(
                            "cannot remove the cgroup {path} in {root}: {e}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// What a pod has used.
    pub fn figures(&self, pod_dir: &Path) -> Figures {
        let Some(path) = noted(pod_dir) else { return Figures::default() };
        Figures { cpu: self.cpu(&path), memory: self.memory(&path) }
    }

    /// Has the kernel killed something of a pod for want of memory on the host?
    pub fn ran_out_of_memory(&self, pod_dir: &Path) -> bool {
        noted(pod_dir).is_some_and(|path| self.oom_kills(&path) > 0)
    }
}

/// The cgroup of the pod with this directory, if it has one.
pub fn noted(pod_dir: &Path) -> Option<CgroupPath> {
    // Not whole when the daemon died while writing it; then there is no cgroup yet.
    let path = CgroupPath::parse(&std::fs::read_to_string(note(pod_dir)).ok()?).ok()?;
    let id = pod_dir.file_name()?.to_str()?;
    path.split_last().is_some_and(|(_, last)| last == path::name(id)).then_some(path)
}

fn note(pod_dir: &Path) -> PathBuf {
    pod_dir.join("cgroup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "needs root and a cgroup hierarchy that can be written"]
    async fn a_process_begins_in_its_cgroup_and_ends_with_it() {
        let cgroups = Cgroups::of_host();
        cgroups.describe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("1");
        std::fs::create_dir(&pod_dir).unwrap();
        let parent = format!("/husk-unit-{}", std::process::id());
        let path = CgroupPath::of_pod(&parent, "", "1").unwrap().unwrap();
        cgroups.make(&pod_dir, &path).unwrap();
        let mut command = tokio::process::Command::new("sleep");
        cgroups.door(&pod_dir).unwrap().admit(command.arg("600"));
        let mut child = command.spawn().unwrap();
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id().unwrap())).unwrap();
        let joined = text.lines().filter(|line| line.ends_with(&path.to_string())).count();
        assert_eq!(joined, cgroups.hierarchies.len(), "{text}");
        assert!(cgroups.figures(&pod_dir).cpu.is_some());
        assert_eq!(cgroups.limit_above(&path).filter(|limit| *limit < 1 << 40), None);

        cgroups.remove(&pod_dir).await.unwrap();
        assert!(!child.wait().await.unwrap().success());
        for hierarchy in &cgroups.hierarchies {
            let parent = hierarchy.root.join(&parent[1..]);
            assert!(parent.is_dir() && !parent.join("husk-1").exists());
            std::fs::remove_dir(parent).unwrap();
        }
        cgroups.remove(&pod_dir).await.unwrap();
        assert!(!cgroups.ran_out_of_memory(&pod_dir));
    }

    #[test]
    fn only_the_pods_own_cgroup_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("ab");
        std::fs::create_dir(&pod_dir).unwrap();
        let write = |text: &str| std::fs::write(note(&pod_dir), text).unwrap();
        assert_eq!(noted(&pod_dir), None);
        for half in ["", "/", "/kubepods", "/kubepods/pod1/husk-a", "/kubepods/../husk-ab"] {
            write(half);
            assert_eq!(noted(&pod_dir), None, "{half:?}");
        }
        write("/kubepods/pod1/husk-ab");
        assert_eq!(noted(&pod_dir).unwrap().to_string(), "/kubepods/pod1/husk-ab");
    }
}
