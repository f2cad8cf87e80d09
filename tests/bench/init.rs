//! The init of the bare VM that the benchmark compares with: says that it runs, and powers off.

use nix::sys::reboot::{RebootMode, reboot};

fn main() {
    println!("husk-bench: up");
    let error = reboot(RebootMode::RB_POWER_OFF);
    println!("husk-bench: cannot power off: {error:?}");
}
