//! Holds a PID namespace that several containers share: its PID 1, which sees to orphans and to nothing else. A
//! container that reaches into it (`/proc/1/root`, ptrace(2)) finds an empty directory, and a process that may
//! do nothing.

use std::sync::Arc;

use libcontainer::capabilities;
use libcontainer::syscall::syscall::create_syscall;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{ForkResult, chdir, pivot_root, setsid};
use oci_spec::runtime::LinuxCapabilities;

use super::report::Reporter;
use super::tried;
use crate::{paths, sys};

/// Runs in the helper process.
pub fn run(reporter: &Arc<Reporter>) -> Result<(), String> {
    tried("making namespaces", unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS))?;
    match tried("forking", sys::fork())? {
        ForkResult::Parent { child } => reporter.pid(child.as_raw()),
        ForkResult::Child => {
            if let Err(error) = give_up_everything() {
                reporter.error(&error);
                std::process::exit(255);
            }
            // The report ends here, and with it the agent's waiting.
            sys::close_and_wait();
        }
    }
    Ok(())
}

fn give_up_everything() -> Result<(), String> {
    tried("naming the process", prctl::set_name(c"pod"))?;
    tried("starting a session", setsid())?;
    tried("leaving children to the kernel", sys::ignore_children())?;
    empty_root()?;
    tried("setting no_new_privs", prctl::set_no_new_privs())?;
    let syscall = create_syscall();
    let mut nothing = LinuxCapabilities::default();
    nothing
        .set_bounding(Some(Default::default()))
        .set_effective(Some(Default::default()))
        .set_permitted(Some(Default::default()))
        .set_inheritable(Some(Default::default()))
        .set_ambient(Some(Default::default()));
    tried("dropping capabilities", capabilities::drop_privileges(&nothing, syscall.as_ref()))?;
    tried("becoming undumpable", prctl::set_dumpable(false))
}

/// Makes an empty, read-only directory all that there is.
fn empty_root() -> Result<(), String> {
    let none = None::<&str>;
    tried("keeping mounts to itself", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
    tried(
        "mounting an empty root",
        mount(Some("none"), paths::STATE, Some("tmpfs"), flags, Some("size=4k")),
    )?;
    tried("entering the empty root", chdir(paths::STATE))?;
    tried("changing the root", pivot_root(".", "."))?;
    tried("leaving the old root", umount2(".", MntFlags::MNT_DETACH))?;
    tried("entering the root", chdir("/"))
}
