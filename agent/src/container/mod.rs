//! The pod's containers: from the request to the running process and back to nothing.

mod create;
mod delete;
mod exec;
mod id_mappings;
mod idmapped;
mod images;
mod namespaces;
mod root;
mod signal;
mod spec;
mod start;
mod update;
mod usage;
mod user;
mod user_namespace;
mod volumes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use husk_proto::agent::{self, ProcessState, ResolvedUser, StatsResponse, TerminalSize};
use oci_spec::runtime::{LinuxDeviceCgroup, Process as OciProcess};

pub use self::id_mappings::IdMappings;
pub use self::images::Images;
use self::namespaces::{PidNamespace, PodNamespaces, Shared};
use self::root::Root;
use self::usage::Usage;
use self::volumes::{Media, Memory, Volumes};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::owner::Owner;
use crate::process::Process;
use crate::reaper::Reaper;

/// The most exec'd processes that one container has at a time, those that have exited but are not deleted
/// included.
const MAX_EXECS: usize = 512;

/// A container of the pod.
pub struct Container {
    id: String,
    /// As in the spec, with what the agent has filled in: what exec'd processes are like.
    template: OciProcess,
    user: ResolvedUser,
    /// The user by the guest's ids: whose the streams are.
    owner: Owner,
    stdin: bool,
    process: Arc<Process>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    cgroup: Cgroup,
    /// The spec's rules; `None` for no restriction.
    devices: Option<Vec<LinuxDeviceCgroup>>,
    root: Root,
    volumes: Volumes,
    pids: PidNamespace,
    /// The pod's namespaces, when it is in the user namespace among them.
    shared: Option<Arc<Shared>>,
    usage: Usage,
    /// Held by what changes the container's state.
    stage: tokio::sync::Mutex<Stage>,
}

/// How far a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Created,
    Started,
    Deleted,
}

impl Container {
    /// Who its processes run as.
    pub fn user(&self) -> &ResolvedUser {
        &self.user
    }

    /// Its own process, or one that was exec'd in it.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.process));
        }
        let unknown = || Error::NotFound(format!("container {} has no process {exec_id:?}", self.id));
        self.execs(|execs| execs.get(exec_id).cloned()).ok_or_else(unknown)
    }

    /// Forgets an exec'd process that has exited.
    pub fn forget(&self, exec_id: &str) -> Result<()> {
        self.execs(|execs| match execs.get(exec_id) {
            Some(process) if process.exit().is_none() => {
                Err(Error::State(format!("process {exec_id:?} of container {} still runs", self.id)))
            }
            _ => {
                execs.remove(exec_id);
                Ok(())
            }
        })
    }

    /// What is known of it.
    pub fn describe(&self) -> agent::Container {
        let (pid, exit) = (self.process.pid(), self.process.exit());
        let state = match (pid, &exit) {
            (_, Some(_)) => ProcessState::Exited,
            (Some(_), None) => ProcessState::Running,
            (None, None) => ProcessState::Created,
        };
        agent::Container {
            id: self.id.clone(),
            state: state.into(),
            pid: pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
            exit,
            exec_ids: self.execs(|execs| execs.keys().cloned().collect()),
        }
    }

    /// Figures of its cgroup and its writable layer.
    pub async fn stats(&self) -> Result<StatsResponse> {
        let mut stats = self.cgroup.stats()?;
        stats.writable_filesystem = usage::filesystem(&self.root.upper());
        (stats.writable_bytes, stats.writable_inodes) = self.usage.of(self.root.upper()).await;
        Ok(stats)
    }

    fn execs<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Arc<Process>>) -> T) -> T {
        f(&mut self.execs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a container is made and run with.
#[derive(Default)]
pub struct Tools {
    /// The images' file systems.
    pub images: Images,
    /// The pod's volumes in memory.
    pub memory: Memory,
    /// The block devices that containers use as such.
    pub media: Media,
    /// Sees how processes end.
    pub reaper: Arc<Reaper>,
    /// What containers that share their processes or their users are in.
    pub namespaces: PodNamespaces,
}

/// A terminal's size as the kernel takes it; `None` where the request leaves it open.
fn terminal_size(size: Option<TerminalSize>) -> Option<TerminalSize> {
    size.filter(|size| size.rows > 0 && size.columns > 0)
}
