//! The calls of this folder that have no safe wrapper.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's event loop.
pub fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: `AsRawFd` of an `Arc<OwnedFd>` gives the same descriptor every time, and the `Arc` inside the
    // `AsyncFd` keeps it open until it is deregistered.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Lets the child of a command write `bytes` to each of `files` before its program begins; it does not begin when
/// one of them refuses.
pub fn write_before_exec(command: &mut tokio::process::Command, files: Vec<File>, bytes: &'static [u8]) {
    let write = move || files.iter().try_for_each(|mut file| file.write_all(bytes));
    // SAFETY: between fork and exec the closure only calls write(2), on files that it owns, and allocates nothing:
    // an error is the system's number alone.
    unsafe { command.pre_exec(write) };
}
