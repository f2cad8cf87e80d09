//! Templates: guests that have booted and wait for their pod, saved. A pod's VM is a clone of one.
//!
//! `ROOT/templates/BUILD/CLASS/` has the two files of one, and of what its first clone has shown a third. It is made
//! beside its place and renamed, so that what is there is whole; what an ending daemon left half made is swept by the
//! next. A template belongs to one build (monitor, kernel, initramfs, host's kernel) and one class of pods.

mod class;
mod learn;
mod make;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use husk_failpoint::reach;
use husk_vmm::config::RestoreConfig;

pub use class::{Class, Trust};

use crate::cgroup::Cgroups;
use crate::config::{Config, VmDefaults};
use crate::error::{Error, Result};
use crate::node::lock;
use crate::vm::Vm;

/// What is being made.
const HALF_MADE: &str = "new";

/// The node's templates.
pub struct Templates {
    root: PathBuf,
    /// Where the VMs that become templates have their sockets.
    run: PathBuf,
    cgroups: Cgroups,
    /// Below which these VMs have their cgroups.
    parent_cgroup: String,
    /// Places of those whose memory this daemon has written or had checked.
    trusted: Mutex<HashSet<PathBuf>>,
    /// Held while something of a clone is written down: several may be made at once.
    learning: Mutex<()>,
}

impl Templates {
    /// Those of a configuration.
    pub fn new(config: &Config, cgroups: Cgroups) -> Self {
        Self {
            root: config.root.join("templates"),
            run: config.run.join("templates"),
            cgroups,
            parent_cgroup: config.cgroup.parent.clone(),
            trusted: Mutex::default(),
            learning: Mutex::default(),
        }
    }

    fn place(&self, class: &Class, vm: &VmDefaults) -> Result<PathBuf> {
        Ok(self.root.join(class::build(vm)?).join(class.name()))
    }

    /// The template of a class, if there is one.
    pub fn find(&self, class: &Class, vm: &VmDefaults) -> Option<RestoreConfig> {
        let place = vm.clones().then(|| self.place(class, vm).ok()).flatten()?;
        let [state, memory] = files(&place);
        // Power may have failed, or the disk, since an earlier daemon wrote it.
        let verify = !lock(&self.trusted).contains(&place);
        let written = Some(written(&place)).filter(|path| path.is_file());
        (state.is_file() && memory.is_file()).then_some(RestoreConfig { state, memory, verify, written })
    }

    /// A clone of this template runs: its memory is as it was written.
    pub fn trust(&self, template: &RestoreConfig) {
        if let Some(place) = template.state.parent() {
            lock(&self.trusted).insert(place.to_owned());
            if let Err(e) = note_use(place) {
                tracing::warn!("{e}");
            }
        }
    }

    /// Removes a template of which no clone has come to life; clones that live go on.
    pub fn discard(&self, template: &RestoreConfig) {
        let Some(place) = template.state.parent() else { return };
        lock(&self.trusted).remove(place);
        if let Err(e) = remove(place) {
            tracing::warn!("{e}");
        }
        reach(format_args!("discarded a template"));
    }

    /// Removes what is of no use: templates of other builds, half-made ones, and VMs that were to become some.
    pub async fn sweep(&self, config: &Config) {
        let used = config.vms().filter(|vm| vm.clones());
        let builds: HashSet<String> = used.filter_map(|vm| class::build(vm).ok()).collect();
        for dir in entries(&self.root) {
            let outdated =
                !dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| builds.contains(name));
            let useless = if outdated { vec![dir] } else { half_made(&dir) };
            for path in useless {
                if let Err(e) = remove(&path) {
                    tracing::warn!("{e}");
                }
            }
        }
        for dir in entries(&self.run) {
            let swept = async {
                if let Some(vm) = Vm::find(&dir)? {
                    vm.process.kill().await;
                }
                end(&self.cgroups, &dir).await
            };
            if let Err(e) = swept.await {
                tracing::warn!("{e}");
            }
        }
    }
}

/// Removes the cgroup and the directory of a VM that has ended.
async fn end(cgroups: &Cgroups, run: &Path) -> Result<()> {
    cgroups.remove(run).await?;
    remove(run)
}

/// When a template was made, or used last: its directory's time says it.
fn used(place: &Path) -> Option<SystemTime> {
    place.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn note_use(place: &Path) -> Result<()> {
    let noted = File::open(place).and_then(|dir| dir.set_modified(SystemTime::now()));
    noted.map_err(|e| Error::io("note the use of", place, e))
}

/// State and memory.
fn files(place: &Path) -> [PathBuf; 2] {
    [place.join("state"), place.join("memory")]
}

/// The pages that clones write to at once.
fn written(place: &Path) -> PathBuf {
    place.join("written")
}

fn half_made(build: &Path) -> Vec<PathBuf> {
    let mut paths = entries(build);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == HALF_MADE));
    paths
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
