//! What virtiofsd gives up before it begins, beside what it gives up itself.
//!
//! It serves files that belong to any user, so it stays root, with the capabilities to do as it is told with them. By
//! itself it takes PID, mount and network namespaces, a root that is the share alone, those capabilities, and a seccomp
//! filter that kills; but until then it would have all that root has, and the process that it leaves outside to wait for
//! it would not be held to any system calls.

use husk_jail::seccomp::{self, Filter};
use husk_jail::{JailError, identity, limits, namespaces};
use nix::libc;
use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use tokio::process::Command;

use super::sys;
use crate::error::{Error, Result};

/// Of its own choice it would make device nodes for a guest, and open files by their handles, with a capability that
/// leads out of the share.
pub const FLAGS: [&str; 2] = ["--modcaps=-mknod", "--inode-file-handles=never"];
/// As many descriptors as virtiofsd takes by itself.
const MAX_FILES: u64 = 1_000_000;

/// What it serves files with, and what it needs to confine itself.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// What neither it nor any library of its has a use for. Its own filter, which lets pass only what serving takes, is on
/// top of this.
const DENIED: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_fanotify_init,
    libc::SYS_vhangup,
    libc::SYS_syslog,
];

/// How many descriptors it may have; it sets that itself.
pub fn max_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.map_or(MAX_FILES, |most| most.min(MAX_FILES))
}

/// Has the command's process give up what it does not need before its program begins.
pub fn confine(command: &mut Command) -> Result<()> {
    let filter = seccomp::deny(DENIED).map_err(|e| Error::Internal(format!("virtiofsd: {e}")))?;
    sys::before_exec(command, move || give_up(&filter).map_err(|e| e.source));
    Ok(())
}

/// Allocates nothing, unless the filter is refused.
fn give_up(filter: &Filter) -> Result<(), JailError> {
    namespaces::enter_new_names()?;
    for resource in [Resource::Core, Resource::Memlock, Resource::Msgqueue, Resource::Rtprio] {
        limits::lower(resource, 0)?;
    }
    identity::bound_capabilities(KEPT)?;
    identity::no_new_privileges()?;
    filter.install()
}
