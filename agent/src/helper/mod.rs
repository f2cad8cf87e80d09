//! The agent's helper processes: short-lived, single-threaded executions of the agent's own binary that
//! become, or start, a container's process. What the container library does (fork, change namespaces) must
//! not happen in a process with other work in flight.

mod create;
mod enter;
mod execve;
mod hold;
pub mod launch;
mod report;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::unistd::{Gid, Uid, setresgid, setresuid};

use self::report::Reporter;
use crate::container::IdMappings;

/// First argument of the helper that makes and starts a container.
pub const CREATE: &str = "container-create";

/// First argument of the helper that starts one more process in a container.
pub const EXEC: &str = "container-exec";

/// First argument of the helper that holds namespaces.
pub const HOLD: &str = "namespaces-hold";

/// What a helper is to do, as JSON in the file that its second argument names.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Task {
    /// The container's id.
    pub id: String,
    /// The OCI bundle, with `config.json`.
    pub bundle: std::path::PathBuf,
    /// Where the container library keeps its state.
    pub state: std::path::PathBuf,
    /// The unix socket to which the terminal's master is sent.
    pub console: Option<std::path::PathBuf>,
    /// What to run, for [`EXEC`]: the container's first process and the new one's description.
    pub exec: Option<ExecTask>,
}

/// One more process.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct ExecTask {
    /// The pid of the container's own process.
    pub container_pid: i32,
    /// The cgroup's directory.
    pub cgroup: std::path::PathBuf,
    /// The container is in a user namespace.
    pub user_namespace: bool,
    /// The process, as in an OCI spec.
    pub process: oci_spec::runtime::Process,
}

/// Runs a helper: `task` is the path of its [`Task`], and for [`HOLD`] the ids of a user namespace, in JSON. The result is
/// told over the report pipe; the exit code says nothing.
pub fn run(command: &str, task: &str) -> u8 {
    let fd: OwnedFd = match crate::sys::take_report_fd() {
        Ok(fd) => fd,
        Err(e) => {
            eprintln!(
                "husk-agent {command}: started without a report pipe ({e}); this is for the agent itself"
            );
            return 2;
        }
    };
    let reporter = Arc::new(Reporter::new(fd));
    let panics = Arc::clone(&reporter);
    // Standard error may be the container's already.
    std::panic::set_hook(Box::new(move |info| panics.error(&format!("the helper panicked: {info}"))));
    let result = match command {
        HOLD => ids(task).and_then(|ids| hold::run(ids.as_ref(), &reporter)),
        CREATE => load(task).and_then(|task| create::run(&task, &reporter)),
        _ => load(task).and_then(|task| enter::run(&task, &reporter)),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            reporter.error(&error);
            1
        }
    }
}

/// Takes the ids 0 of the user namespace that this process has just entered: what it makes belongs to them.
fn become_root() -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    tried("becoming the group 0", setresgid(gid, gid, gid))?;
    tried("becoming the user 0", setresuid(uid, uid, uid))
}

fn tried<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn ids(text: &str) -> Result<Option<IdMappings>, String> {
    serde_json::from_str(text).map_err(|e| format!("parsing {text}: {e}"))
}

fn load(path: &str) -> Result<Task, String> {
    let text = std::fs::read(path).map_err(|e| format!("reading {path}: {e}"))?;
    serde_json::from_slice(&text).map_err(|e| format!("parsing {path}: {e}"))
}
