//! Processes that an earlier daemon may have started, known by their command lines.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a killed process may take to be gone, seconds: it may be waiting for a disk.
const PATIENCE: i64 = 10;

/// The number of a process whose command line has the argument `name` followed by `value`.
pub fn with_argument(name: &str, value: &Path) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| has_argument(*pid, name, value))
}

/// Has the process this argument?
pub fn has_argument(pid: i32, name: &str, value: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = command.split(|byte| *byte == 0);
    arguments.any(|argument| argument == name.as_bytes())
        && arguments.next() == Some(value.as_os_str().as_bytes())
}

/// SIGKILL to every process with the argument; returns when they are gone.
pub fn kill_with_argument(name: &str, value: &Path) {
    while let Some(number) = with_argument(name, value) {
        let Some(Ok(pidfd)) = Pid::from_raw(number).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            continue;
        };
        // Looked at again now that the descriptor holds the process: the number may have been used again.
        if !has_argument(number, name, value) {
            continue;
        }
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let limit = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
        if !matches!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)), Ok(1)) {
            tracing::warn!("process {number} does not die");
            return;
        }
    }
}
