//! Standard streams for a process about to be started.

use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};

use super::HostEnds;
use crate::error::{Context, Result};
use crate::owner::Owner;

/// The process's ends of its streams.
pub struct ProcessEnds {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

/// Pipes for a process of `owner`; without `stdin` its standard input is /dev/null.
pub fn pipes(stdin: bool, owner: Owner) -> Result<(HostEnds, ProcessEnds)> {
    let mut host = HostEnds::default();
    let mut ends = ProcessEnds::null();
    if stdin {
        let (read, write) = pipe(owner)?;
        host.stdin = Some(write);
        ends.stdin = read.into();
    }
    let (read, write) = pipe(owner)?;
    host.stdout = Some(read);
    ends.stdout = write.into();
    let (read, write) = pipe(owner)?;
    host.stderr = Some(read);
    ends.stderr = write.into();
    Ok((host, ends))
}

impl ProcessEnds {
    /// /dev/null three times, for a process that gets a terminal later.
    pub fn null() -> Self {
        Self { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }
    }
}

/// A pipe that `owner` may open again through `/proc/self/fd` or `/dev/stdout`.
fn pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context(|| "making a pipe")?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fchown(&write, Some(uid), Some(gid)).context(|| "giving a pipe to the container's user")?;
    Ok((read, write))
}
