//! Processes that an earlier daemon may have started, known by their command lines.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a killed process may take to be gone, seconds: it may be waiting for a disk.
const PATIENCE: i64 = 10;

/// The number of a process whose command line has the argument `name` followed by `value`.
///
/// # Errors
/// When that cannot be known: no such process must not be taken for granted then.
pub fn with_argument(name: &str, value: &Path) -> io::Result<Option<i32>> {
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if has_argument(pid, name, value)? {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Has the process this argument? One that is gone has not.
///
/// # Errors
/// As [`with_argument`].
pub fn has_argument(pid: i32, name: &str, value: &Path) -> io::Result<bool> {
    let command = match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(command) => command,
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_gone(&e) => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut arguments = command.split(|byte| *byte == 0);
    Ok(arguments.any(|argument| argument == name.as_bytes())
        && arguments.next() == Some(value.as_os_str().as_bytes()))
}

/// A descriptor of the process; `None` when it is gone.
///
/// # Errors
/// What else the system says.
pub fn open(pid: i32, flags: PidfdFlags) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, flags) {
        Err(Errno::SRCH) => Ok(None),
        // The number is a thread's now.
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// SIGKILL to every process with the argument; returns when they are gone.
///
/// # Errors
/// When it cannot be known whether there is one.
pub fn kill_with_argument(name: &str, value: &Path) -> io::Result<()> {
    while let Some(number) = with_argument(name, value)? {
        let Some(pidfd) = open(number, PidfdFlags::empty())? else { continue };
        // Looked at again now that the descriptor holds the process: the number may have been used again.
        if !has_argument(number, name, value)? {
            continue;
        }
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let limit = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
        if !matches!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)), Ok(1)) {
            tracing::warn!("process {number} does not die");
            return Ok(());
        }
    }
    Ok(())
}

/// What reading of a process says that ends meanwhile.
pub fn is_gone(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::SRCH)
}
