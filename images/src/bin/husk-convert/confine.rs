//! What the worker gives up: files, users, resources and system calls.

use std::collections::BTreeMap;
use std::io;

use husk_images::worker::{Job, Task};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::sys;

/// What reading, writing, allocating and ending take. A process of threads is not among it, nor is any way to
/// a file by name.
const ALLOWED: [libc::c_long; 18] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit_group,
];

/// Gives up everything that `job` does not need, for good.
pub fn confine(job: &Job) -> io::Result<()> {
    let limits = &job.limits;
    let largest = match job.task {
        // A pipe is no file.
        Task::Unpack => 0,
        // Contents are padded to pages.
        Task::Layer => limits.layer_bytes.saturating_add(limits.entries.saturating_mul(4096)),
        // Metadata is written from memory, the names twice at most.
        Task::Image { .. } => limits.memory.saturating_mul(2),
        Task::Qcow2 { .. } => limits.disk_bytes,
    };
    sys::limit(libc::RLIMIT_FSIZE, largest)?;
    sys::limit(libc::RLIMIT_AS, limits.memory)?;
    sys::limit(libc::RLIMIT_CPU, limits.cpu_seconds)?;
    sys::limit(libc::RLIMIT_CORE, 0)?;
    sys::limit(libc::RLIMIT_NPROC, 0)?;
    sys::drop_root(job.run_as)?;
    sys::no_new_privileges()?;
    seccompiler::apply_filter(&filter().map_err(io::Error::other)?).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Memory, but none to be executed.
    let exec = libc::PROT_EXEC as u64;
    let not_executable = || -> Result<Vec<SeccompRule>, seccompiler::Error> {
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), 0)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    // abort(3), by which running out of memory ends.
    let own =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(std::process::id()))?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]);
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}
