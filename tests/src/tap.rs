//! Taps of monitors that run without a daemon.

use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// A tap that processes inherit, and that is gone with the last of them.
///
/// # Panics
/// When it cannot be made.
pub fn inherited_tap(name: &str) -> OwnedFd {
    let tap = husk_vmm::make_tap(name, 1).expect("make a tap").remove(0);
    fcntl(&tap, FcntlArg::F_SETFD(FdFlag::empty())).expect("let it be inherited");
    tap
}
