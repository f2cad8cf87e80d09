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

/// `TUNSETQUEUE`: whether frames for the guest may come by this queue of a tap that has several. To be said when it changes.
///
/// # Errors
/// What the system says.
pub fn use_tap_queue(queue: BorrowedFd<'_>, used: bool) -> io::Result<()> {
    let flags = if used { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as i16 };
    let request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru };
    // SAFETY: the request reads the flags of one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETQUEUE as _, &request) }).map(drop)
}
