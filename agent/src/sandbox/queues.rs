//! The queues of the guest's interfaces: as many are used as CPUs are online.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Context, Result};
use crate::sys;

const INTERFACES: &str = "/sys/class/net";
const DRIVER: &str = "virtio_net";

/// Has each interface use a pair of queues for each of `cpus` CPUs, as far as it has them: its driver looks once, when the
/// guest boots.
pub fn follow(cpus: u32) -> Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context(|| "opening a socket")?;
    for interface in cards(Path::new(INTERFACES)) {
        sys::set_channels(any.as_fd(), &interface, cpus)
            .context(|| format!("setting the number of queues of {interface}"))?;
    }
    Ok(())
}

/// The interfaces that the VMM serves.
fn cards(interfaces: &Path) -> Vec<String> {
    let entries = fs::read_dir(interfaces).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let driver = fs::read_link(entry.path().join("device/driver")).unwrap_or_default();
        driver.file_name().is_some_and(|name| name == DRIVER)
    });
    ours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn interfaces_of_other_drivers_are_left_alone() {
        let sys = tempfile::tempdir().unwrap();
        for (name, driver) in [("eth0", Some("virtio_net")), ("dummy0", None), ("eth1", Some("veth"))] {
            let device = sys.path().join(name).join("device");
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                symlink(Path::new("../../bus/virtio/drivers").join(driver), device.join("driver")).unwrap();
            }
        }
        assert_eq!(cards(sys.path()), ["eth0"]);
        assert!(cards(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn what_has_no_queues_is_an_error() {
        let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        assert!(sys::set_channels(any.as_fd(), "lo", 2).is_err());
        assert!(sys::set_channels(any.as_fd(), "a-name-that-is-too-long", 2).is_err());
    }
}
