//! husk: the daemon and command line.

mod config;
mod error;
mod store;

fn main() {}
