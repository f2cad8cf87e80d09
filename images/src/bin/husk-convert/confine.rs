//! What the worker gives up: files, namespaces, users, resources and system calls.

use std::io;

use husk_images::worker::{Job, Task};
use husk_jail::seccomp::AllowList;
use husk_jail::{JailError, identity, limits, namespaces, root};
use rustix::process::{Resource, geteuid};

/// What reading, writing, allocating and ending take, beside memory. A process of threads is not among it, nor is any
/// way to a file by name.
const ALLOWED: [libc::c_long; 14] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit_group,
];

/// Gives up everything that `job` does not need, for good. Only root can give up all of it: a user's worker keeps the
/// user, and has the user's files in its root, which it cannot open.
pub fn confine(job: &Job) -> Result<(), JailError> {
    let is_root = geteuid().is_root();
    if is_root {
        if !namespaces::is_first() {
            let source = io::Error::other("it has to be the first process of its own: unshare --pid --fork");
            return Err(JailError { step: "looking at its PID namespace", source });
        }
        namespaces::enter_new(None)?;
        root::empty()?;
    }
    let most = &job.limits;
    let largest = match job.task {
        // A pipe is no file.
        Task::Unpack => 0,
        // Contents are padded to pages.
        Task::Layer => most.layer_bytes.saturating_add(most.entries.saturating_mul(4096)),
        // Metadata is written from memory, the names twice at most.
        Task::Image { .. } => most.memory.saturating_mul(2),
        Task::Qcow2 { .. } => most.disk_bytes,
    };
    for (resource, most) in [
        (Resource::Fsize, largest),
        (Resource::As, most.memory),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nproc, 0),
    ] {
        limits::lower(resource, most)?;
    }
    limits::lower_cpu(most.cpu_seconds)?;
    match is_root {
        true => identity::become_user(job.run_as, job.run_as)?,
        false => identity::no_capabilities()?,
    }
    identity::no_new_privileges()?;
    // abort(3), by which running out of memory ends.
    AllowList::default().allow(&ALLOWED).allow_memory().allow_own_signal(libc::SIGABRT).compile()?.install()
}
