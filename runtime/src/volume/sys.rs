//! The one system call of this folder that has no safe wrapper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;

/// What a mount gets from the one that it is a copy of.
#[derive(Clone, Copy, Debug)]
pub enum Propagation {
    /// Nothing.
    Private,
    /// What is mounted there later.
    Slave,
}

/// Sets the propagation of a detached mount and all below it.
pub fn set_propagation(tree: &OwnedFd, propagation: Propagation) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
    };
    set(tree, true, &libc::mount_attr { propagation, attr_set: 0, attr_clr: 0, userns_fd: 0 })
}

/// Makes a detached mount read-only, and with `recursively` all below it.
pub fn set_read_only(tree: &OwnedFd, recursively: bool) -> io::Result<()> {
    let attributes =
        libc::mount_attr { propagation: 0, attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, userns_fd: 0 };
    set(tree, recursively, &attributes)
}

/// mount_setattr(2), Linux 5.12.
fn set(tree: &OwnedFd, recursively: bool, attributes: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursively { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open for the call, the path is an empty C string, and the kernel reads
    // `size_of::<mount_attr>()` bytes of an initialised structure that outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
