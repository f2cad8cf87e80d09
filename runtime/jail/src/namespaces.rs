//! Namespaces.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::{JailError, sys};

/// Runs `start`, which starts a process: that becomes the first one of a PID namespace of its own. It ends with
/// the process, is seen from outside like any other, and gets no signal from within.
///
/// Nothing else than a fork puts a process into a PID namespace, and what a thread has said of its children it cannot
/// take back: so `start` runs on a thread that ends with it.
///
/// # Errors
/// What `start` says; that there is no thread; that this process may not make namespaces (root may, or who has
/// `CAP_SYS_ADMIN`).
pub fn start_apart<T: Send, E: Send + From<io::Error>>(
    start: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        let apart = move || {
            sys::unshare(UnshareFlags::NEWPID).map_err(|e| {
                io::Error::new(e.kind(), format!("making a PID namespace: {e}; run it as root"))
            })?;
            start()
        };
        let thread = std::thread::Builder::new().name("starter".into()).spawn_scoped(scope, apart)?;
        thread.join().map_err(|_| io::Error::other("the thread that starts a process panicked"))?
    })
}

/// Is this process the first one of a PID namespace, as [`start_apart`] makes it?
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Enters new mount, IPC, UTS and cgroup namespaces, and the given network namespace or, without one, a new one: in it
/// is nothing, not even a loopback that is up. To be called by the process's only thread.
///
/// # Errors
/// What the system says; it takes `CAP_SYS_ADMIN`.
pub fn enter_new(network: Option<BorrowedFd<'_>>) -> Result<(), JailError> {
    let mut new = UnshareFlags::NEWNS;
    match network {
        Some(network) => move_into_link_name_space(network, Some(LinkNameSpaceType::Network))
            .map_err(JailError::at("entering the network namespace"))?,
        None => new |= UnshareFlags::NEWNET,
    }
    sys::unshare(new).map_err(JailError::at("making namespaces"))?;
    enter_new_names()
}

/// Enters new IPC, UTS and cgroup namespaces alone. To be called by the process's only thread.
///
/// # Errors
/// What the system says; it takes `CAP_SYS_ADMIN`.
pub fn enter_new_names() -> Result<(), JailError> {
    sys::unshare(UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP)
        .map_err(JailError::at("making namespaces"))
}
