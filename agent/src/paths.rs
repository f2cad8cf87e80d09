//! Where the agent keeps things.

use std::path::{Path, PathBuf};

/// One directory a container: its bundle.
pub const CONTAINERS: &str = "/run/husk/containers";

/// One mount point an image, named after its disk's serial.
pub const IMAGES: &str = "/run/husk/images";

/// Where the pod's scratch disk is mounted: one directory a container, and `trash`.
pub const SCRATCH: &str = "/run/husk/scratch";

/// Where the pod's volumes are mounted: one directory a container, in it one mount point a volume.
pub const VOLUMES: &str = "/run/husk/volumes";

/// One directory a volume in memory, by number.
pub const MEMORY: &str = "/run/husk/memory";

/// One directory a container, in it by number what of its volumes is its alone: device nodes, and mounts of
/// directories of volumes in memory.
pub const GUEST_VOLUMES: &str = "/run/husk/guest-volumes";

/// The container library's state.
pub const STATE: &str = "/run/husk/state";

/// The files that containers see in their `/etc`.
pub const ETC: &str = "/run/husk/etc";

/// Sockets over which terminals arrive. Their names are short: a socket's path has 107 bytes.
pub const CONSOLES: &str = "/run/husk/consoles";

/// The agent itself, to be executed again as a helper.
pub const SELF: &str = "/proc/self/exe";

/// The bundle of the container `id`, which has been checked.
pub fn bundle(id: &str) -> PathBuf {
    Path::new(CONTAINERS).join(id)
}
