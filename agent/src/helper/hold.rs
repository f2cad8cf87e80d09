//! Holds namespaces that several containers share: the PID 1 of a PID namespace, which sees to orphans and to nothing
//! else, in a user namespace if the pod has one. A container that reaches into it (`/proc/1/root`, ptrace(2)) finds an
//! empty directory, and a process that may do nothing.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use libcontainer::capabilities;
use libcontainer::syscall::syscall::create_syscall;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{ForkResult, chdir, pipe2, pivot_root, read, setsid, write};
use oci_spec::runtime::LinuxCapabilities;

use super::report::Reporter;
use super::{become_root, tried};
use crate::container::IdMappings;
use crate::{paths, sys};

/// Runs in the helper process.
pub fn run(mappings: Option<&IdMappings>, reporter: &Arc<Reporter>) -> Result<(), String> {
    match mappings {
        None => hold(reporter),
        Some(mappings) => hold_mapped(mappings, reporter),
    }
}

/// Who makes a user namespace may not say which ids it has: a parent outside does it.
fn hold_mapped(mappings: &IdMappings, reporter: &Arc<Reporter>) -> Result<(), String> {
    let (child_entered, entered) = tried("making a pipe", pipe2(OFlag::O_CLOEXEC))?;
    let (child_mapped, mapped) = tried("making a pipe", pipe2(OFlag::O_CLOEXEC))?;
    match tried("forking", sys::fork())? {
        ForkResult::Parent { child } => {
            drop((entered, child_mapped));
            // The child says itself why it comes to an end.
            if has_word(&child_entered) {
                tried("giving the user namespace its ids", mappings.write(child))?;
                tried("going on", write(&mapped, b"x"))?;
            }
            Ok(())
        }
        ForkResult::Child => {
            drop((child_entered, mapped));
            let held = tried("making a user namespace", unshare(CloneFlags::CLONE_NEWUSER))
                .and_then(|()| tried("going on", write(&entered, b"x")))
                .and_then(|_| if has_word(&child_mapped) { become_root() } else { Err("without ids".into()) })
                .and_then(|()| hold(reporter));
            if let Err(error) = held {
                reporter.error(&error);
            }
            std::process::exit(0);
        }
    }
}

/// Waits for the other side.
fn has_word(pipe: &OwnedFd) -> bool {
    matches!(read(pipe, &mut [0]), Ok(1))
}

fn hold(reporter: &Arc<Reporter>) -> Result<(), String> {
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
