//! The guest's end.

use std::convert::Infallible;

use nix::sys::reboot::{RebootMode, reboot};

/// Writes what is dirty to the disks and switches the guest off.
pub fn off() -> ! {
    nix::unistd::sync();
    let failed: nix::Result<Infallible> = reboot(RebootMode::RB_POWER_OFF);
    let Err(errno) = failed;
    eprintln!("husk-agent: cannot power off: {errno}");
    // PID 1 must not return: the kernel panics, which ends the guest as well.
    std::process::exit(1)
}
