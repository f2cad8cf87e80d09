//! The one system call of pod networking that has no safe wrapper.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

nix::ioctl_write_ptr_bad!(
    /// Makes or opens the interface that the request names (linux/if_tun.h).
    tun_set_iff,
    libc::TUNSETIFF,
    libc::ifreq
);

/// Makes a tap named `name` of the open `/dev/net/tun`, in the calling thread's network namespace: whole
/// Ethernet frames, each behind a `virtio_net_hdr`, gone with the descriptor. A tap or other interface of
/// that name is an error.
pub(super) fn make_tap(tun: &File, name: &str) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= ifr_name.len() || !name.is_ascii() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    // The kernel takes the flags' 16 bits as they are, IFF_TUN_EXCL (0x8000) is the sign's.
    let request =
        libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as i16 } };
    // SAFETY: the descriptor is open for the call, and TUNSETIFF reads one `ifreq`, which is initialised as
    // far as the kernel looks at it (name and flags) and lives on this stack.
    unsafe { tun_set_iff(tun.as_raw_fd(), &request) }?;
    Ok(())
}
