//! Inherited descriptors and the ioctls of taps.

use std::fs::OpenOptions;
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

/// Makes a tap for a guest: whole Ethernet frames, each behind a `virtio_net_hdr`. It is in the calling thread's network
/// namespace, is gone with the descriptor, and is inherited by processes that are started.
///
/// # Errors
/// What the system says; a name of the wrong length.
pub fn make_tap(name: &str) -> io::Result<OwnedFd> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let mut request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    let tun = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/net/tun")?);
    // SAFETY: TUNSETIFF reads the name and the flags of one ifreq, and may write the name, while the call lasts.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })?;
    // SAFETY: F_SETFD touches no memory.
    check(unsafe { libc::fcntl(tun.as_raw_fd(), libc::F_SETFD, 0) })?;
    Ok(tun)
}
