//! husk: a CRI runtime that gives every pod a kernel of its own.

mod accept;
mod caller;
mod cgroup;
mod cli;
mod config;
mod container;
mod cri;
#[cfg(test)]
mod dist;
mod error;
mod events;
mod figures;
mod guest;
mod host;
mod id_mappings;
mod mountinfo;
mod network;
mod node;
mod observe;
mod process;
mod pull_progress;
mod sandbox;
mod store;
mod streaming;
mod template;
mod vm;
mod volume;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
