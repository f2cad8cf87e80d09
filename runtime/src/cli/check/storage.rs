//! Where images and scratch disks are.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open, statvfs};

/// Less than this, MiB, and not even one image fits.
const LEAST_MIB: u64 = 1 << 10;
/// Bytes of the file with which holes are tried.
const TRIAL: usize = 1 << 20;

/// Free space at `root`, which need not be there yet.
pub fn space(root: &Path) -> Result<String, String> {
    let dir = existing(root);
    let stat = statvfs(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    if free < LEAST_MIB {
        return Err(format!(
            "{} has {free} MiB left for images and scratch disks: make room, or set root",
            root.display()
        ));
    }
    Ok(format!("{} has {} GiB left", root.display(), free >> 10))
}

/// Scratch disks are sparse, and what containers delete becomes holes again.
pub fn holes(root: &Path) -> Result<String, String> {
    let dir = existing(root);
    let punched = || -> std::io::Result<bool> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(open(dir, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&vec![1; TRIAL])?;
        file.sync_all()?;
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, TRIAL as u64)?;
        Ok(file.metadata()?.blocks() * 512 < TRIAL as u64 / 2)
    };
    match punched() {
        Ok(true) => Ok(format!("{} gives space back", root.display())),
        Ok(false) => Err(without_holes(root, "holes take space")),
        Err(e) => Err(without_holes(root, &e.to_string())),
    }
}

fn without_holes(root: &Path, why: &str) -> String {
    format!(
        "{}: {why}; scratch disks keep what containers delete there: use ext4, XFS or Btrfs, as root",
        root.display()
    )
}

/// The directory, or the nearest above it that is there.
fn existing(root: &Path) -> &Path {
    root.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_is_not_there_yet_is_looked_at_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("not/yet")), dir.path());
        assert_eq!(existing(Path::new("/nonexistent")), Path::new("/"));
        // No files are made in /proc.
        assert!(holes(Path::new("/proc/nonexistent")).unwrap_err().contains("/proc/nonexistent"));
        assert!(space(Path::new("/proc")).unwrap_err().contains("/proc"));
    }
}
