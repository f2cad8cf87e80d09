//! The system calls of this folder that have no safe wrapper.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::unistd::Pid;
use tokio::process::Command;

/// Has the child of a command do `work` before its program begins, which it does not if that fails. `work` makes system
/// calls and nothing else: it must not allocate, or take a lock.
pub fn before_exec(command: &mut Command, work: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the child is a copy of one thread; as the caller has it, `work` touches nothing that another thread may
    // have been changing.
    unsafe { command.pre_exec(work) };
}

/// What a mount gets from the one that it is a copy of.
#[derive(Clone, Copy, Debug)]
pub enum Propagation {
    /// Nothing.
    Private,
    /// What is mounted there later.
    Slave,
}

/// Sets the propagation of a detached mount and all below it.
pub fn set_propagation(tree: &OwnedFd, propagation: Propagation) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
    };
    set(tree, true, &libc::mount_attr { propagation, attr_set: 0, attr_clr: 0, userns_fd: 0 })
}

/// Makes a detached mount read-only, and with `recursively` all below it.
pub fn set_read_only(tree: &OwnedFd, recursively: bool) -> io::Result<()> {
    let attributes =
        libc::mount_attr { propagation: 0, attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, userns_fd: 0 };
    set(tree, recursively, &attributes)
}

/// Has a detached mount show the ids of its files as those of the user namespace `users`. What is mounted below stays
/// as it is.
pub fn map_ids(tree: &OwnedFd, users: &File) -> io::Result<()> {
    let userns_fd = users.as_raw_fd() as u64;
    let attributes =
        libc::mount_attr { propagation: 0, attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, userns_fd };
    set(tree, false, &attributes)
}

/// Starts a child in a user namespace of its own that does nothing until it is killed, or the calling thread ends.
pub fn wait_in_user_namespace() -> io::Result<Pid> {
    // linux/sched.h: none of the daemon's handlers runs in the child.
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    // SAFETY: plain integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_NEWUSER as u64 | CLONE_CLEAR_SIGHAND;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM it is a fork(2): the child has a copy of this thread and of its stack. It makes system
    // calls alone, which take no lock and touch no memory that another thread may have been changing, and never
    // returns. The kernel reads the arguments, of the size given, which outlive the call.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) } {
        0 => loop {
            // SAFETY: both take integers.
            unsafe {
                libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::syscall(libc::SYS_pause);
            }
        },
        pid if pid > 0 => Ok(Pid::from_raw(pid as libc::pid_t)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// mount_setattr(2), Linux 5.12.
fn set(tree: &OwnedFd, recursively: bool, attributes: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursively { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open for the call, the path is an empty C string, and the kernel reads
    // `size_of::<mount_attr>()` bytes of an initialised structure that outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
