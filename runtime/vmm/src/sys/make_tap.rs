//! Taps, before there is a guest for them.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const TUN: &str = "/dev/net/tun";

/// Makes a tap for a guest, in the calling thread's network namespace: whole Ethernet frames, each behind a
/// `virtio_net_hdr`. It has as many queues as is said, a descriptor each, of which the tap is gone with the last; they wait
/// for nothing and are not inherited.
///
/// # Errors
/// What the system says; an interface of that name, and one that none can have.
pub fn make_tap(name: &str, queues: u8) -> io::Result<Vec<OwnedFd>> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= ifr_name.len() || !name.is_ascii() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    (0..queues)
        .map(|queue| {
            // The first makes it, and the others are added to it.
            let new = if queue == 0 { libc::IFF_TUN_EXCL } else { 0 };
            open_queue(ifr_name, flags | new)
        })
        .collect()
}

fn open_queue(ifr_name: [libc::c_char; libc::IFNAMSIZ], flags: libc::c_int) -> io::Result<OwnedFd> {
    // The kernel takes the flags' 16 bits as they are, IFF_TUN_EXCL (0x8000) is the sign's.
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as i16 };
    let mut request = libc::ifreq { ifr_name, ifr_ifru };
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(|error| io::Error::new(error.kind(), format!("open {TUN}: {error}")))?;
    // SAFETY: TUNSETIFF reads the name and the flags of one ifreq, and may write the name, while the call lasts.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(tun.into()) }
}
