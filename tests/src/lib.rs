//! What the end-to-end tests and benchmarks stand on: a node with a registry, CNI and `husk serve`, the CRI's
//! client, and a look for what is left behind.
//!
//! Helpers panic with what they tried and saw: a test has no better answer to a broken bed.
#![forbid(unsafe_code)]

mod bed;
pub mod bench_init;
mod client;
mod cni;
mod command;
mod container;
mod containerd;
mod crictl;
mod daemon;
mod leftovers;
mod logs;
mod median;
mod paths;
mod pod;
mod process;
mod progress;
mod qemu;
mod registry;
mod script;
mod spec;
mod tap;
mod vmm;
mod watched;

pub use bed::{Bed, short_dir};
pub use client::{Client, expect_code};
pub use cni::{BRIDGE, Cni, SUBNET};
pub use command::{run, sh};
pub use container::Container;
pub use containerd::{Containerd, Cri};
pub use crictl::Crictl;
pub use daemon::Daemon;
pub use leftovers::Leftovers;
pub use logs::LogLine;
pub use median::median;
pub use paths::{Paths, entries};
pub use pod::Pod;
pub use process::{Memory, Process};
pub use progress::{readable, step, wait_for};
pub use qemu::{Qemu, microvm};
pub use registry::{REGISTRY_PASSWORD, REGISTRY_USER, Registry, RegistryOptions};
pub use script::install as install_script;
pub use spec::{BUSYBOX, container, image, pod, unique};
pub use tap::inherited_tap;
pub use vmm::{Vmm, inherit};
pub use watched::Watched;
