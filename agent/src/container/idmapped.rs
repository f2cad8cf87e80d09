//! Mounts that show files as if the ids of a user namespace owned them (mount_setattr(2), MOUNT_ATTR_IDMAP).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use libcontainer::syscall::SyscallError;
use libcontainer::syscall::linux::{AT_EMPTY_PATH, MOVE_MOUNT_F_EMPTY_PATH, MountAttr};
use libcontainer::syscall::syscall::create_syscall;

use super::namespaces::PodUsers;
use crate::error::{Context, Result};

/// Mounts on `place`, which is there, a copy of the mount that `source` is in, from `source` on.
pub fn mount(source: &Path, place: &Path, users: &PodUsers) -> Result<()> {
    let syscall = create_syscall();
    let clone = libc::OPEN_TREE_CLOEXEC | libc::OPEN_TREE_CLONE;
    let tree = syscall.open_tree(libc::AT_FDCWD, source.to_str(), clone);
    let mounted = tree.and_then(|tree| {
        let attributes = MountAttr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: users.namespace.as_raw_fd() as u64,
        };
        let size = size_of::<MountAttr>();
        syscall.mount_setattr(tree.as_fd(), Path::new(""), AT_EMPTY_PATH, &attributes, size)?;
        // The place is absolute: from where it is looked for does not matter.
        syscall.move_mount(tree.as_fd(), None, tree.as_fd(), place.to_str(), MOVE_MOUNT_F_EMPTY_PATH)
    });
    mounted
        .map_err(errno)
        .context(|| format!("mounting {} with the ids of the pod's user namespace", source.display()))
}

fn errno(error: SyscallError) -> io::Error {
    match error {
        SyscallError::Nix(errno) => io::Error::from_raw_os_error(errno as i32),
        other => io::Error::other(other.to_string()),
    }
}
