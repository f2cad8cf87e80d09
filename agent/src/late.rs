//! Devices for which the kernel does not look by itself: a boot does without them. They are known by their ACPI ids, such
//! as [`husk_proto::LATE_SLOT_ID`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Context, Result};

const DEVICES: &str = "/sys/bus/platform/devices";
const DRIVER: &str = "virtio-mmio";
const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";

/// Held by whoever looks for a device and binds it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives all of that id their driver.
pub fn bind_all(id: &str) -> Result<()> {
    while bind_next(id)? {}
    Ok(())
}

/// Gives the first of that id without a driver its driver; the device is there then. False: there is none.
pub fn bind_next(id: &str) -> Result<bool> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(device) = next(Path::new(DEVICES), id)? else { return Ok(false) };
    // The driver would not take a device of this id otherwise.
    let wanted = device.join("driver_override");
    fs::write(&wanted, DRIVER).context(|| format!("writing to {}", wanted.display()))?;
    let name = device.file_name().unwrap_or_default();
    fs::write(BIND, name.as_encoded_bytes()).context(|| format!("binding {}", device.display()))?;
    Ok(true)
}

fn next(devices: &Path, id: &str) -> Result<Option<PathBuf>> {
    let listing = || format!("listing {}", devices.display());
    let mut first: Option<PathBuf> = None;
    for entry in fs::read_dir(devices).context(listing)? {
        let path = entry.context(listing)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = name.strip_prefix(id).is_some_and(|rest| rest.starts_with(':'));
        if ours && !path.join("driver").exists() && first.as_ref().is_none_or(|first| path < *first) {
            first = Some(path);
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_without_a_driver_is_next() {
        let sys = tempfile::tempdir().unwrap();
        for name in ["HUSK0001:02", "HUSK0001:00", "HUSK0001:01", "HUSK00010:00", "LNRO0005:00", "serial8250"]
        {
            fs::create_dir(sys.path().join(name)).unwrap();
        }
        for expected in ["HUSK0001:00", "HUSK0001:01", "HUSK0001:02"] {
            let found = next(sys.path(), "HUSK0001").unwrap().unwrap();
            assert_eq!(found.file_name().unwrap(), expected);
            fs::create_dir(found.join("driver")).unwrap();
        }
        assert_eq!(next(sys.path(), "HUSK0001").unwrap(), None);
        assert!(next(Path::new("/nowhere"), "HUSK0001").is_err());
    }
}
