//! husk's virtual machine monitor.
//!
//! [`config`], [`control`], [`host_cpus`], [`host_ports`], [`written`] and [`make_tap`] are what the daemon needs: how a VM is
//! described, how a running one is talked to, what the host's CPUs are, how its guest reaches the host, what a clone tells
//! about the next, and a network interface's end for it. Everything else is behind the feature `vmm`.

pub mod config;
pub mod control;
pub mod host_cpus;
pub mod host_ports;
pub mod written;

#[cfg(feature = "vmm")]
mod acpi;
#[cfg(feature = "vmm")]
mod boot;
#[cfg(feature = "vmm")]
mod console;
#[cfg(feature = "vmm")]
mod devices;
#[cfg(feature = "vmm")]
mod jail;
#[cfg(feature = "vmm")]
mod layout;
#[cfg(feature = "vmm")]
pub mod log;
#[cfg(feature = "vmm")]
mod memory;
#[cfg(feature = "vmm")]
mod mmio_bus;
#[cfg(feature = "vmm")]
mod pio;
#[cfg(feature = "vmm")]
mod power;
#[cfg(feature = "vmm")]
mod rate;
#[cfg(feature = "vmm")]
mod snapshot;
#[cfg(feature = "vmm")]
mod statistics;
mod sys;
#[cfg(feature = "vmm")]
mod vcpu;
#[cfg(feature = "vmm")]
mod virtio;
#[cfg(feature = "vmm")]
pub mod vm;

pub use devices::vsock::listen as listen_for_vsock;
pub use sys::make_tap;

/// For the process's beginning.
#[cfg(feature = "vmm")]
pub use sys::use_one_heap;

/// What tests and benchmarks need of the inside.
#[cfg(feature = "vmm")]
pub use boot::CMDLINE;

/// What the fuzz targets drive.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::devices::balloon::Balloon;
    pub use crate::devices::block::{Block, Medium, Pool, Slot};
    pub use crate::devices::fs::{Fs, Share};
    pub use crate::devices::mem::{Mem, Plug};
    pub use crate::devices::net::{Lane, Limits as NetLimits, Net};
    pub use crate::devices::rng::Rng;
    pub use crate::devices::vsock::{Vsock, listen};
    pub use crate::jail::Starting;
    pub use crate::memory::{Memory, Ram, Region};
    pub use crate::power::ExitCell;
    pub use crate::rate::{Limiter, Ticket};
    pub use crate::virtio::{BoxedDevice, Identity, Interrupt, MmioTransport, Served, WorkerHandle};
}
