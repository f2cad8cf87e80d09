//! Mounts below a pod's shared directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::request::Volume;
use super::sys::{self, Propagation};
use crate::error::{Error, Result};
use crate::mountinfo::{self, mount_point};

/// Levels between the shared directory and its mount points.
const DEPTH: usize = 2;

/// Makes the shared directory a mount that hands on to its copies in other namespaces (the server's) what is
/// mounted below it, and that gets nothing from elsewhere. May be done already.
pub fn prepare(dir: &Path) -> Result<()> {
    if is_mount_point(dir)? {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|e| Error::io("make", dir, e))?;
    let nothing = None::<&str>;
    mount(Some(dir), dir, nothing, MsFlags::MS_BIND, nothing)
        .and_then(|()| mount(nothing, dir, nothing, MsFlags::MS_PRIVATE, nothing))
        .and_then(|()| mount(nothing, dir, nothing, MsFlags::MS_SHARED, nothing))
        .map_err(|e| Error::io("share the volumes below", dir, e.into()))
}

/// Shows a volume at `target`.
///
/// The copy gets its propagation and flags before it is anywhere to be seen: not for a moment is a read-only
/// volume writable, or what is mounted on the host later seen where it should not be.
pub fn add(target: &Path, volume: &Volume) -> Result<()> {
    let failed = |what: &str, e: std::io::Error| Error::io(what, &volume.host, e);
    let metadata = fs::metadata(&volume.host).map_err(|e| failed("look at the volume", e))?;
    let place = if metadata.is_dir() { fs::create_dir(target) } else { File::create(target).map(drop) };
    place.map_err(|e| Error::io("make", target, e))?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, &volume.host, flags).map_err(|e| failed("copy the mount of", e.into()))?;
    let propagation = if volume.follows_host { Propagation::Slave } else { Propagation::Private };
    sys::set_propagation(&tree, propagation).map_err(|e| failed("separate the mount of", e))?;
    if volume.read_only {
        sys::set_read_only(&tree, volume.recursively)
            .map_err(|e| failed("make read-only the mount of", e))?;
    }
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::io("mount a volume on", target, e.into()))
}

/// Unmounts everything at and below `dir`, and removes it with the mount points. It need not be there.
pub fn remove_below(dir: &Path) -> Result<()> {
    // The list is read again: a mount may lie on another.
    loop {
        let mounts = mount_points(dir)?;
        if mounts.is_empty() {
            break;
        }
        for place in mounts.iter().rev() {
            match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // Gone with the one that it lay on.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(e) => return Err(Error::io("unmount", place, e.into())),
            }
        }
    }
    remove_empty(dir, DEPTH)
}

/// Removes a mount point or directory of them. Never what is in a volume: should one still be mounted, the
/// system refuses.
fn remove_empty(place: &Path, depth: usize) -> Result<()> {
    let Ok(metadata) = place.symlink_metadata() else { return Ok(()) };
    if metadata.is_dir() && depth > 0 {
        let entries = fs::read_dir(place).map_err(|e| Error::io("list", place, e))?;
        for entry in entries {
            remove_empty(&entry.map_err(|e| Error::io("list", place, e))?.path(), depth - 1)?;
        }
    }
    let removed = if metadata.is_dir() { fs::remove_dir(place) } else { fs::remove_file(place) };
    removed.map_err(|e| Error::io("remove", place, e))
}

fn is_mount_point(dir: &Path) -> Result<bool> {
    Ok(mount_points(dir)?.iter().any(|place| place == dir))
}

/// The mount points at and below `dir`, in the order in which they were made.
fn mount_points(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = Path::new(mountinfo::TABLE);
    let text = fs::read_to_string(table).map_err(|e| Error::io("read", table, e))?;
    Ok(text.lines().filter_map(mount_point).filter(|place| place.starts_with(dir)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_below_what_is_not_there() {
        assert!(mount_points(Path::new("/nonexistent/husk")).unwrap().is_empty());
        remove_below(Path::new("/nonexistent/husk")).unwrap();
    }
}
