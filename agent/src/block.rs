//! Names of block devices.

use std::fs;

/// The kernel's name ("vda") of a block device; empty when there is none of that number.
pub fn name(major: u64, minor: u64) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    link.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
