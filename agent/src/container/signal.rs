//! Signals to a container's processes.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::ProcessId;
use tokio::time::Instant;

use super::{Container, PidNamespace};
use crate::error::{Error, Result};
use crate::process::Process;

/// How long a signal waits for a handler.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the handlers are looked at.
const INTERVAL: Duration = Duration::from_millis(10);

impl Container {
    /// Sends a signal to a process, or to all of them.
    pub fn signal(self: &Arc<Self>, process: &ProcessId, signal: u32, all: bool) -> Result<()> {
        let signal = i32::try_from(signal)
            .ok()
            .filter(|signal| (1..=libc::SIGRTMAX()).contains(signal))
            .ok_or_else(|| Error::Invalid(format!("{signal} is not the number of a signal")))?;
        if all {
            if !process.exec_id.is_empty() {
                return Err(Error::Invalid("a signal to all processes cannot name one".into()));
            }
            return self.cgroup.signal(signal);
        }
        let target = self.process(&process.exec_id)?;
        if target.pid().is_none() && target.exit().is_none() {
            return Err(Error::State(format!("the process of container {} has not been started", self.id)));
        }
        if process.exec_id.is_empty() && self.pids == PidNamespace::Own && is_lost(&target, signal) {
            // The answer need not wait: that a process heeds a signal is never said by it.
            tokio::spawn(send_when_heeded(Arc::clone(self), target, signal));
            return Ok(());
        }
        target.signal(signal)
    }
}

/// The kernel drops a signal to a namespace's PID 1 that has no handler for it (pid_namespaces(7)). A process that
/// has only just begun may be about to set one: who stops a container that early would wait its whole grace
/// period for nothing. So the signal is held until there is a handler, for a while.
async fn send_when_heeded(container: Arc<Container>, target: Arc<Process>, signal: i32) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && is_lost(&target, signal) {
        tokio::time::sleep(INTERVAL).await;
    }
    if let Err(e) = target.signal(signal) {
        tracing::warn!(container = container.id, "a signal that was held: {e}");
    }
}

/// Would the kernel drop the signal, were the process PID 1? Not one that is blocked: it waits; nor SIGKILL and
/// SIGSTOP, which come from outside the namespace.
fn is_lost(target: &Process, signal: i32) -> bool {
    let Some(pid) = target.pid() else { return false };
    if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
        return false;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // A process that is gone has no lines: the signal is nobody's.
    ["SigBlk:", "SigIgn:", "SigCgt:"].iter().all(|set| contains(&status, set, signal) == Some(false))
}

/// Is the signal in a set of proc_pid_status(5)?
fn contains(status: &str, set: &str, signal: i32) -> Option<bool> {
    let line = status.lines().find_map(|line| line.strip_prefix(set))?;
    let bits = u64::from_str_radix(line.trim(), 16).ok()?;
    Some(bits >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_signals_are_read() {
        let status =
            "Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t8000000000000004\nSigCgt:\t0000000000004000\n";
        assert_eq!(contains(status, "SigCgt:", libc::SIGTERM), Some(true));
        assert_eq!(contains(status, "SigCgt:", libc::SIGHUP), Some(false));
        assert_eq!(contains(status, "SigIgn:", libc::SIGQUIT), Some(true));
        assert_eq!(contains(status, "SigIgn:", 64), Some(true));
        assert_eq!(contains(status, "SigNone:", 1), None);
        assert_eq!(contains("SigBlk: nonsense", "SigBlk:", 1), None);
    }
}
