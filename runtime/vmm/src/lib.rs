//! husk's virtual machine monitor.
//!
//! [`config`] and [`control`] are what the daemon needs to know: how a VM is described and how a running one
//! is talked to. Everything else is behind the feature `vmm`.

pub mod config;
pub mod control;

#[cfg(feature = "vmm")]
mod acpi;
#[cfg(feature = "vmm")]
mod boot;
#[cfg(feature = "vmm")]
mod console;
#[cfg(feature = "vmm")]
mod devices;
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
mod snapshot;
#[cfg(feature = "vmm")]
mod statistics;
#[cfg(feature = "vmm")]
mod sys;
#[cfg(feature = "vmm")]
mod vcpu;
#[cfg(feature = "vmm")]
mod virtio;
#[cfg(feature = "vmm")]
pub mod vm;
