//! Templates: guests that have booted and wait for their pod, saved. A pod's VM is a clone of one.
//!
//! `ROOT/templates/BUILD/CLASS/` has the two files of one. It is made beside its place and renamed, so that what is there
//! is whole; what an ending daemon left half made is swept by the next. A template belongs to one build (monitor, kernel,
//! initramfs, host's kernel) and one class of pods.

mod class;
mod make;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use husk_vmm::config::RestoreConfig;

pub use class::Class;

use crate::config::{Config, VmDefaults};
use crate::error::{Error, Result};
use crate::node::lock;
use crate::vm::Vm;

/// The most templates of one build; the oldest make room.
const MAX: usize = 8;
/// What is being made.
const HALF_MADE: &str = "new";

/// The node's templates.
pub struct Templates {
    enabled: bool,
    vm: VmDefaults,
    root: PathBuf,
    /// Where the VMs that become templates have their sockets.
    run: PathBuf,
    /// Places of those whose memory this daemon has written or had checked.
    trusted: Mutex<HashSet<PathBuf>>,
}

impl Templates {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            enabled: config.vm.templates,
            vm: config.vm.clone(),
            root: config.root.join("templates"),
            run: config.run.join("templates"),
            trusted: Mutex::default(),
        }
    }

    fn place(&self, class: &Class) -> Result<PathBuf> {
        Ok(self.root.join(class::build(&self.vm)?).join(class.name()))
    }

    /// The template of a class, if there is one.
    pub fn find(&self, class: &Class) -> Option<RestoreConfig> {
        let place = self.enabled.then(|| self.place(class).ok()).flatten()?;
        let [state, memory] = files(&place);
        // Power may have failed, or the disk, since an earlier daemon wrote it.
        let verify = !lock(&self.trusted).contains(&place);
        (state.is_file() && memory.is_file()).then_some(RestoreConfig { state, memory, verify })
    }

    /// A clone of this template runs: its memory is as it was written.
    pub fn trust(&self, template: &RestoreConfig) {
        if let Some(place) = template.state.parent() {
            lock(&self.trusted).insert(place.to_owned());
        }
    }

    /// Removes a template of which no clone has come to life; clones that live go on.
    pub fn discard(&self, template: &RestoreConfig) {
        let Some(place) = template.state.parent() else { return };
        lock(&self.trusted).remove(place);
        if let Err(e) = remove(place) {
            tracing::warn!("{e}");
        }
    }

    /// Removes what is of no use: templates of other builds, half-made ones, and VMs that were to become some.
    pub async fn sweep(&self) {
        let build = class::build(&self.vm).ok().filter(|_| self.enabled);
        for dir in entries(&self.root) {
            let outdated = dir.file_name().and_then(|name| name.to_str()) != build.as_deref();
            let useless = if outdated { vec![dir] } else { half_made(&dir) };
            for path in useless {
                if let Err(e) = remove(&path) {
                    tracing::warn!("{e}");
                }
            }
        }
        for dir in entries(&self.run) {
            if let Some(vm) = Vm::find(&dir) {
                vm.process.kill().await;
            }
            if let Err(e) = remove(&dir) {
                tracing::warn!("{e}");
            }
        }
    }
}

/// State and memory.
fn files(place: &Path) -> [PathBuf; 2] {
    [place.join("state"), place.join("memory")]
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

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
