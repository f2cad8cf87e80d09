//! The one call of this folder that has no safe wrapper.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's event loop.
pub fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: `AsRawFd` of an `Arc<OwnedFd>` gives the same descriptor every time, and the `Arc` inside the
    // `AsyncFd` keeps it open until it is deregistered.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
