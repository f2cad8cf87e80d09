//! Inherited descriptors and what the monitor asks of its taps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes an inherited descriptor, which is not inherited further. Once for each that the configuration names: nothing
/// else in the process may own it.
///
/// # Errors
/// When `fd` is not open.
pub fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_SETFD takes any number and touches no memory.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, as just seen, and the starter made it for this: the configuration's check has no descriptor
    // named twice, or one of the standard three.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets `O_NONBLOCK`.
///
/// # Errors
/// What the system says.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL touch no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: likewise.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// `TUNSETVNETHDRSZ`: the bytes of the virtio-net header before each frame.
///
/// # Errors
/// What the system says; `ENOTTY` or `EBADFD` when it is no tap.
pub fn set_vnet_header_size(tap: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    // SAFETY: the request reads one int, which lives until the call returns.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &bytes) }).map(drop)
}

/// `TUNSETOFFLOAD`: what the reader of the tap can take (`TUN_F_*`).
///
/// # Errors
/// What the system says.
pub fn set_offloads(tap: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: the request takes its argument by value.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) })
        .map(drop)
}
