//! Starts one more process in a running container.
//!
//! Not by libcontainer's tenant builder: it leaves the container's seccomp filter out of the new process
//! (0.7, `adapt_spec_for_tenant` builds a `Linux` without it), so an exec would be less confined than the
//! container itself. What is taken from the library is what must be the same for both: the filter and the
//! capabilities.

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{capabilities, seccomp};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};
use oci_spec::runtime::{LinuxSeccomp, PosixRlimitType, Process, Spec};

use super::report::Reporter;
use super::{ExecTask, Task, become_root, execve, tried};
use crate::sys;

/// Runs in the helper process.
pub fn run(task: &Task, reporter: &Arc<Reporter>) -> Result<(), String> {
    let exec = task.exec.as_ref().ok_or("no process was given")?;
    let spec = Spec::load(task.bundle.join("config.json")).map_err(|e| format!("loading the spec: {e}"))?;
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let console = match &task.console {
        Some(path) => {
            Some(UnixStream::connect(path).map_err(|e| format!("connecting to the console socket: {e}"))?)
        }
        None => None,
    };

    if let Some(score) = exec.process.oom_score_adj() {
        tried("setting oom_score_adj", fs::write("/proc/self/oom_score_adj", score.to_string()))?;
    }
    // Nobody in the container may look into this process before it has become the command.
    tried("becoming undumpable", prctl::set_dumpable(false))?;
    tried("joining the container's cgroup", fs::write(exec.cgroup.join("cgroup.procs"), "0"))?;
    enter_namespaces(exec)?;
    if exec.user_namespace {
        become_root()?;
    }
    // A new member of a PID namespace must be a child of the one that entered it.
    match tried("forking", sys::fork())? {
        ForkResult::Parent { child } => reporter.pid(child.as_raw()),
        ForkResult::Child => {
            if let Err(error) = become_process(&exec.process, filter.as_ref(), console.as_ref(), reporter) {
                reporter.error(&error);
            }
            std::process::exit(255);
        }
    }
    Ok(())
}

fn enter_namespaces(exec: &ExecTask) -> Result<(), String> {
    let pidfd = tried("opening the container's process", sys::pidfd_open(exec.container_pid))?;
    let mut all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    all.set(CloneFlags::CLONE_NEWUSER, exec.user_namespace);
    tried("entering the container's namespaces", setns(pidfd, all))
}

/// In the container, up to and including its command; the order is that of the container library for the
/// container's own process.
fn become_process(
    process: &Process,
    filter: Option<&LinuxSeccomp>,
    console: Option<&UnixStream>,
    reporter: &Reporter,
) -> Result<(), String> {
    tried("starting a session", setsid())?;
    let user = process.user();
    if let Some(console) = console {
        terminal(console, user.uid())?;
    }
    for limit in process.rlimits().iter().flatten() {
        tried("setting a resource limit", setrlimit(resource(limit.typ()), limit.soft(), limit.hard()))?;
    }
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        tried("setting no_new_privs", prctl::set_no_new_privs())?;
    }
    umask(Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
    // Before the user changes, who may not be able to search the directories above.
    let changed = chdir(process.cwd());

    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    tried("setting groups", setgroups(&groups))?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    tried("keeping capabilities", prctl::set_keepcaps(true))?;
    tried("setting the group", setresgid(gid, gid, gid))?;
    tried("setting the user", setresuid(uid, uid, uid))?;
    let syscall = create_syscall();
    tried("resetting capabilities", capabilities::reset_effective(syscall.as_ref()))?;
    tried("dropping kept capabilities", prctl::set_keepcaps(false))?;
    tried("marking descriptors", sys::close_others_on_exec())?;

    // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the capabilities go.
    if let (Some(filter), false) = (filter, no_new_privileges) {
        tried("loading the seccomp filter", seccomp::initialize_seccomp(filter))?;
    }
    if let Some(wanted) = process.capabilities() {
        tried("dropping capabilities", capabilities::drop_privileges(wanted, syscall.as_ref()))?;
    }
    if changed.is_err() {
        tried(&format!("changing to {}", process.cwd().display()), chdir(process.cwd()))?;
    }
    inside()?;
    if let (Some(filter), true) = (filter, no_new_privileges) {
        tried("loading the seccomp filter", seccomp::initialize_seccomp(filter))?;
    }
    execve::become_command(process, reporter);
    Ok(())
}

/// A working directory outside the container's root has a name that getcwd(2) cannot give.
fn inside() -> Result<(), String> {
    tried("the working directory is outside the container", nix::unistd::getcwd()).map(drop)
}

/// Opens a terminal of the container's own devpts, makes it the controlling one and the standard streams,
/// and sends its master to the agent.
fn terminal(console: &UnixStream, uid: u32) -> Result<(), String> {
    let pty = tried("opening a terminal", nix::pty::openpty(None, None))?;
    tried(
        "giving the terminal to its user",
        nix::unistd::fchown(&pty.slave, Some(Uid::from_raw(uid)), None),
    )?;
    send(console, &pty.master)?;
    tried("taking the terminal", sys::set_controlling_terminal(std::os::fd::AsFd::as_fd(&pty.slave)))?;
    tried("attaching the terminal", nix::unistd::dup2_stdin(&pty.slave))?;
    tried("attaching the terminal", nix::unistd::dup2_stdout(&pty.slave))?;
    tried("attaching the terminal", nix::unistd::dup2_stderr(&pty.slave))
}

fn send(console: &UnixStream, master: &OwnedFd) -> Result<(), String> {
    let fds = [master.as_raw_fd()];
    let iov = [IoSlice::new(b"console")];
    let sent = sendmsg::<()>(
        console.as_raw_fd(),
        &iov,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    tried("sending the terminal", sent).map(drop)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}
