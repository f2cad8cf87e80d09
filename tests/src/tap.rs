//! Taps of monitors that run without a daemon.

use std::os::fd::OwnedFd;

use crate::vmm::inherit;

/// A tap that processes inherit, and that is gone with the last of them.
///
/// # Panics
/// When it cannot be made.
pub fn inherited_tap(name: &str) -> OwnedFd {
    let tap = husk_vmm::make_tap(name, 1).expect("make a tap").remove(0);
    inherit(&tap);
    tap
}
