//! From the kernel's hand-over to a guest in which containers can run.

use std::fs;
use std::path::Path;

use husk_proto::LATE_MEMORY_ID;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::cgroup;
use crate::error::{Context, Result};
use crate::fair_server;
use crate::late;
use crate::paths;
use crate::sys;

/// Open files a process may have: what containers expect of a node.
const OPEN_FILES: u64 = 1 << 20;

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
}

/// In this order: each needs those before it.
fn mounts() -> [Mount; 8] {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let dev = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    [
        Mount { kind: "proc", target: "/proc", flags: plain, data: "" },
        Mount { kind: "sysfs", target: "/sys", flags: plain, data: "" },
        Mount { kind: "devtmpfs", target: "/dev", flags: dev, data: "mode=0755" },
        Mount { kind: "devpts", target: "/dev/pts", flags: dev, data: "ptmxmode=0666,mode=0620,gid=5" },
        Mount { kind: "tmpfs", target: "/dev/shm", flags: plain, data: "mode=1777" },
        Mount { kind: "mqueue", target: "/dev/mqueue", flags: plain, data: "" },
        // Not noexec and nodev: the containers' roots may be below it.
        Mount { kind: "tmpfs", target: "/run", flags: MsFlags::MS_NOSUID, data: "mode=0755" },
        Mount { kind: "cgroup2", target: cgroup::MOUNT, flags: plain, data: "nsdelegate" },
    ]
}

/// Mounts the kernel's file systems, makes the agent's directories and sets what containers inherit.
pub fn prepare() -> Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    leave_initial_root()?;
    for Mount { kind, target, flags, data } in mounts() {
        fs::create_dir_all(target).context(|| format!("making {target}"))?;
        match mount(Some(kind), target, Some(kind), flags, Some(data)) {
            // The kernel has done it.
            Err(Errno::EBUSY) => {}
            result => result.context(|| format!("mounting {kind} on {target}"))?,
        }
    }
    for directory in [
        paths::CONTAINERS,
        paths::IMAGES,
        paths::SCRATCH,
        paths::MEMORY,
        paths::GUEST_VOLUMES,
        paths::STATE,
        paths::ETC,
        paths::CONSOLES,
    ] {
        fs::create_dir_all(directory).context(|| format!("making {directory}"))?;
    }
    cgroup::prepare()?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)
        .context(|| "raising the limit of open files")?;
    let unlimited = nix::libc::RLIM_INFINITY;
    setrlimit(Resource::RLIMIT_NPROC, unlimited, unlimited).context(|| "raising the limit of processes")
}

/// Once nobody waits for it, and on a thread of its own that gives way to all others: has the kernel tell of errors, and
/// leave what would wake an idle VM again and again; and binds the devices by which the guest's memory grows and goes back
/// to the host.
pub fn settle() {
    sys::give_way();
    for (parameter, value) in [
        // The console gets errors and worse, which a boot is too short for (the VMM's command line).
        ("/proc/sys/kernel/printk", "4"),
        // Else it looks twice a second whether memory could be compacted before anybody wants it so. Who does is served.
        ("/proc/sys/vm/compaction_proactiveness", "0"),
    ] {
        if let Err(e) = fs::write(parameter, value) {
            tracing::warn!("{parameter}: {e}");
        }
    }
    fair_server::rest();
    if let Err(e) = late::bind_all(LATE_MEMORY_ID) {
        tracing::warn!("the guest's memory stays as large as it is: {e}");
    }
}

/// Puts a mount of the initramfs over the initramfs itself and makes it the root: pivot_root(2), by which
/// containers leave the guest's root, cannot leave the kernel's first one.
fn leave_initial_root() -> Result<()> {
    let none: Option<&str> = None;
    let place = Path::new("/run");
    mount(Some("/"), place, none, MsFlags::MS_BIND, none).context(|| "binding the root")?;
    nix::unistd::chdir(place).context(|| "entering the bound root")?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context(|| "moving the bound root")?;
    nix::unistd::chroot(".").context(|| "changing the root")?;
    nix::unistd::chdir("/").context(|| "entering the new root")
}
