//! What is seen below a pod's shared directory.
//!
//! Volumes are mounted in the mount namespace of the pod's server alone, on empty places that the daemon makes
//! on the host. So the host's table holds none of them; whoever removes a volume's directory on the host is not
//! held up by it; and removing a place takes the mount off it, since the host has nothing mounted there (rmdir(2)
//! and unlink(2) detach what other namespaces have on a name).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use husk_failpoint::reach;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, mkdirat, open, openat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::request::Volume;
use super::sys::{self, Propagation};
use super::user_namespace::UserNamespaces;
use crate::error::{Error, Result};

/// Levels between the shared directory and the places of its volumes.
const DEPTH: usize = 2;

/// Of a directory of places: who has no business there can pass, and sees nothing.
const SEARCHABLE: Mode = Mode::from_raw_mode(0o711);

/// A copy of a volume's mount that is nowhere yet, and where it belongs.
struct Detached {
    tree: OwnedFd,
    is_dir: bool,
    /// Below the shared directory.
    place: PathBuf,
}

/// Makes the directory `dir` that is to be shared.
pub fn make_share(dir: &Path) -> Result<()> {
    let searchable = fs::Permissions::from_mode(SEARCHABLE.as_raw_mode());
    fs::create_dir_all(dir)
        .and_then(|()| fs::set_permissions(dir, searchable))
        .map_err(|e| Error::io("make", dir, e))
}

/// Shows the volumes below `dir` at `container/0`, `container/1`..., in the server's mount `namespace`, whose
/// root is `dir`.
///
/// # Errors
/// Places may be left then, with mounts on them: [`remove`] takes both away.
pub fn add(dir: &Path, container: &str, volumes: &[Volume], namespace: File) -> Result<()> {
    let mut namespaces = UserNamespaces::default();
    let mut trees = Vec::new();
    for (number, volume) in volumes.iter().enumerate() {
        let users = volume.mappings.map(|mappings| namespaces.of(mappings)).transpose()?;
        trees.push(detached(volume, users, Path::new(container).join(number.to_string()))?);
    }
    // The host's own way to the directory, which stays writable.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let share = open(dir, flags, Mode::empty()).map_err(|e| Error::io("open", dir, e.into()))?;
    let container = container.to_owned();
    in_namespace(namespace, move || {
        seal()?;
        mkdirat(&share, &container, Mode::RWXU)
            // The container's root finds its volumes in it, and in a user namespace that is not the guest's.
            .and_then(|()| chmodat(&share, &container, SEARCHABLE, AtFlags::empty()))
            .map_err(|e| Error::io("make", container.as_ref(), e.into()))?;
        reach(format_args!("made the directory of a container's volumes"));
        trees.iter().try_for_each(|detached| place(detached, &share))
    })
}

/// Makes the server's root read-only: a guest makes, renames and removes no names beside its volumes. To be done
/// before the first place is made, so that none that a guest made can lead the daemon elsewhere.
fn seal() -> Result<()> {
    let root = Path::new("/");
    let failed = |e: io::Error| Error::io("make read-only the share's", root, e);
    let tree = open_tree(CWD, root, OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(|e| failed(e.into()))?;
    sys::set_read_only(&tree, false).map_err(failed)
}

/// Copies the mounts at and below a volume's path.
///
/// The copy gets its propagation and flags before it is anywhere to be seen: not for a moment is a read-only
/// volume writable, or what is mounted on the host later seen where it should not be.
fn detached(volume: &Volume, users: Option<&File>, place: PathBuf) -> Result<Detached> {
    let failed = |what: &str, e: io::Error| Error::io(what, &volume.host, e);
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, &volume.host, flags).map_err(|e| failed("copy the mount of", e.into()))?;
    let status = fstat(&tree).map_err(|e| failed("look at the volume", e.into()))?;
    let propagation = if volume.follows_host { Propagation::Slave } else { Propagation::Private };
    sys::set_propagation(&tree, propagation).map_err(|e| failed("separate the mount of", e))?;
    if volume.read_only {
        sys::set_read_only(&tree, volume.recursively)
            .map_err(|e| failed("make read-only the mount of", e))?;
    }
    if let Some(users) = users {
        sys::map_ids(&tree, users).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL) => Error::State(format!(
                "the volume {:?} of {:?} cannot have the ids of the pod's user namespace: its file system, or the \
                 host's kernel for that, has no mounts with mapped ids",
                volume.container, volume.host
            )),
            _ => failed("map the ids of", e),
        })?;
    }
    let is_dir = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    Ok(Detached { tree, is_dir, place })
}

/// Makes the place on the host, and mounts on it in the calling thread's namespace.
fn place(detached: &Detached, share: &OwnedFd) -> Result<()> {
    let Detached { tree, is_dir, place } = detached;
    let made = if *is_dir {
        mkdirat(share, place, Mode::RWXU)
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(share, place, flags, Mode::RUSR | Mode::WUSR).map(drop)
    };
    made.map_err(|e| Error::io("make", place, e.into()))?;
    let target = Path::new("/").join(place);
    reach(format_args!("made the place of a volume"));
    move_mount(tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::io("mount a volume on", place, e.into()))?;
    reach(format_args!("mounted a volume"));
    Ok(())
}

/// Does the work on a thread that is in a mount namespace. The thread ends there.
fn in_namespace(namespace: File, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let server = Path::new("virtiofsd");
    let entered = move || {
        // A thread that shares its root with others may not change its mount namespace.
        unshare(CloneFlags::CLONE_FS)
            .and_then(|()| setns(&namespace, CloneFlags::CLONE_NEWNS))
            .map_err(|e| Error::io("enter the mount namespace of", server, e.into()))?;
        work()
    };
    let thread = std::thread::Builder::new().name("volumes".into()).spawn(entered);
    let thread = thread.map_err(|e| Error::io("start a thread for", server, e))?;
    thread.join().map_err(|_| Error::Internal("the thread that mounts volumes panicked".into()))?
}

/// Removes what [`add`] made at and below `dir`, and so what is mounted there. It need not be there.
pub fn remove(dir: &Path) -> Result<()> {
    remove_empty(dir, DEPTH)
}

/// Removes a place or directory of them. Never what is in a volume: on the host all of them are empty, and one
/// that is not makes the system refuse.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("volumes");
        fs::create_dir_all(share.join("container/0")).unwrap();
        fs::write(share.join("container/1"), "").unwrap();
        remove(&share).unwrap();
        assert!(!share.exists());
        remove(&share).unwrap();
        fs::create_dir_all(share.join("container/0/content")).unwrap();
        assert!(remove(&share).unwrap_err().to_string().contains("container/0"));
        assert!(share.join("container/0/content").exists());
    }
}
