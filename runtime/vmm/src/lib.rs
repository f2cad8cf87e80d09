//! husk's virtual machine monitor.
//!
//! [`config`] and [`control`] are what the daemon needs to know: how a VM is described and how a running one
//! is talked to. Everything else is behind the feature `vmm`.

pub mod config;
pub mod control;
