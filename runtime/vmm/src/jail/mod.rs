//! The VMM's own confinement: what it gives up between having opened all that it needs and the first thing that
//! it reads for its guest.
//!
//! Started by root, it becomes a user of its own without any capability, in namespaces of its own, in an empty root.
//! Started by anybody else, it keeps its user and its namespaces: the rest (limits, descriptors, no new privileges, the
//! seccomp filters) takes no rights, and is done in any case.

mod filters;
mod thread;

use std::os::fd::{AsFd, OwnedFd};

use husk_jail::{JailError, descriptors, identity, limits, namespaces, root};
use rustix::process::Resource;

pub use filters::Filters;
pub use thread::{Begun, Starting, spawn};

use crate::config::VmConfig;
use crate::sys;

/// Open descriptors: a thousand connections of the guest's vsock, and disks of many files each.
const MAX_FILES: u64 = 8192;
/// Threads besides vCPUs: its own, and what KVM may start for the VM.
const MAX_OTHER_THREADS: u64 = 24;

/// Why a VMM is not confined, and does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// Root, and nothing said about whom to become.
    #[error("root's VMM has to become another user: the configuration lacks jail.uid and jail.gid")]
    Root,
    /// Not root, and asked for what only root can do.
    #[error(
        "only root can confine a VMM as the configuration's jail says: leave it out, or start it as root"
    )]
    NotRoot,
    /// It shares its PID namespace.
    #[error(
        "the VMM is process {0} of its PID namespace, and has to be the first of its own: start it with \
         `unshare --pid --fork`"
    )]
    NotFirst(u32),
    /// The pod's network namespace.
    #[error("the network namespace with descriptor {fd} (jail.network_fd): {source}")]
    Network {
        /// Its number.
        fd: i32,
        /// What the system said.
        source: std::io::Error,
    },
    /// A step.
    #[error(transparent)]
    Step(#[from] JailError),
}

/// Looks whether the VMM can be confined as `config` says, and closes every inherited descriptor that is not named
/// there. To be called before anything is opened.
///
/// # Errors
/// [`ConfinementError`].
pub fn begin(config: &VmConfig) -> Result<(), ConfinementError> {
    match (&config.jail, rustix::process::geteuid().is_root()) {
        (None, true) => return Err(ConfinementError::Root),
        (Some(_), false) => return Err(ConfinementError::NotRoot),
        (Some(_), true) if !namespaces::is_first() => {
            return Err(ConfinementError::NotFirst(std::process::id()));
        }
        _ => {}
    }
    let taps = config.nets.iter().flat_map(|net| net.tap_fds.iter().copied());
    let network = config.jail.iter().filter_map(|jail| jail.network_fd);
    let kept: Vec<_> =
        taps.chain(network).chain(config.vsock.host_fd).chain(config.vsock.listener_fd).collect();
    Ok(descriptors::close_all_but(&kept)?)
}

/// The most threads.
fn threads(config: &VmConfig) -> u64 {
    let nets: u64 = config.nets.iter().map(|net| u64::from(net.queues)).sum();
    u64::from(config.max_vcpus) + nets + MAX_OTHER_THREADS
}

/// Gives up everything but system calls, for good. To be called by the process's only thread; nothing can be opened by
/// name afterwards.
///
/// # Errors
/// [`ConfinementError`].
pub fn enter(config: &VmConfig) -> Result<(), ConfinementError> {
    if let Some(jail) = &config.jail {
        let inherit = |fd| sys::inherit(fd).map_err(|source| ConfinementError::Network { fd, source });
        let network: Option<OwnedFd> = jail.network_fd.map(inherit).transpose()?;
        namespaces::enter_new(network.as_ref().map(AsFd::as_fd))?;
        root::empty()?;
    }
    for (resource, most) in [
        (Resource::Nofile, MAX_FILES),
        (Resource::Nproc, threads(config)),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
        (Resource::Nice, 0),
    ] {
        // Who is not root shares the number of processes with everything else that the user runs.
        if resource != Resource::Nproc || config.jail.is_some() {
            limits::lower(resource, most)?;
        }
    }
    match &config.jail {
        Some(jail) => identity::become_user(jail.uid, jail.gid)?,
        None => identity::no_capabilities()?,
    }
    Ok(identity::no_new_privileges()?)
}
