//! The devices, one folder each.

pub mod balloon;
pub mod block;
pub mod fs;
pub mod mem;
pub mod net;
pub mod rng;
pub mod vsock;
