//! The life of a container: one file an operation.

mod create;
mod disk;
mod exec;
mod log;
mod log_journal;
mod log_path;
mod logger;
mod mounts;
mod remove;
mod resources;
mod seccomp;
mod spec;
mod start;
mod stop;
mod update;

pub use disk::PARTITION;
pub use logger::Logger;

use husk_proto::agent;

/// A container's own process, as the agent names it.
fn process(container_id: &str) -> agent::ProcessId {
    agent::ProcessId { container_id: container_id.into(), exec_id: String::new() }
}
