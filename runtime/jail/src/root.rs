//! The file system.

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, pivot_root};

use crate::JailError;

/// A directory that every host has. The new root is mounted on it for a moment.
const STAGE: &str = "/proc";

/// Makes an empty directory, in which nothing can be made, the root of the process, in a mount namespace of its own (see
/// [`crate::namespaces::enter_new`]); the namespace has no other mount afterwards.
///
/// # Errors
/// What the system says.
pub fn empty() -> Result<(), JailError> {
    // Nothing of what follows is the host's to see.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(JailError::at("separating its mounts from the host's"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("husk", STAGE, "tmpfs", flags, Some(c"mode=555"))
        .map_err(JailError::at("mounting an empty root"))?;
    chdir(STAGE).map_err(JailError::at("entering the empty root"))?;
    // The old root lies on the new one then, and is the one that is taken off (pivot_root(2)).
    pivot_root(".", ".").map_err(JailError::at("changing the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(JailError::at("leaving the host's file system"))?;
    chdir("/").map_err(JailError::at("entering the empty root"))
}
