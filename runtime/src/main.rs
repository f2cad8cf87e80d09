//! husk: a CRI runtime that gives every pod a kernel of its own.

mod cli;
mod config;
mod container;
mod cri;
mod error;
mod events;
mod figures;
mod guest;
mod host;
mod id_mappings;
mod network;
mod node;
mod process;
mod pull_progress;
mod sandbox;
mod store;
mod streaming;
mod vm;
mod volume;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
