//! The VMM's process: started here or found again, watched by a pidfd.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};
use husk_jail::namespaces::start_apart;
use rustix::process::{PidfdFlags, Signal, pidfd_send_signal};
use tokio::sync::watch;

use super::sys;
use crate::cgroup::Door;
use crate::error::{Error, Result};
use crate::process;

/// The argument by which a VMM is found again.
const CONFIG: &str = "--config";

/// One `husk-vmm`.
pub struct VmProcess {
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub started: u64,
    pidfd: Arc<OwnedFd>,
    gone: watch::Receiver<bool>,
    /// How it ended, if this daemon started it: nobody else is told.
    status: Option<watch::Receiver<Option<ExitStatus>>>,
}

impl VmProcess {
    /// Starts the program, as the first process of a PID namespace, in the cgroup behind the door; it inherits the
    /// descriptors, with the numbers that they are given.
    pub fn spawn(
        program: &Path,
        config: &Path,
        dir: &Path,
        inherited: Vec<FdMapping>,
        door: Door,
    ) -> Result<VmProcess> {
        let log_path = dir.join("vmm.log");
        let log = File::create(&log_path).map_err(|e| Error::io("create", &log_path, e))?;
        let mut command = tokio::process::Command::new(program);
        command
            .arg(CONFIG)
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .env_clear()
            .current_dir("/")
            // Not in the daemon's group: what ends the daemon's terminal must not end its pods.
            .process_group(0);
        door.admit(&mut command);
        command
            .fd_mappings(inherited)
            .map_err(|e| Error::Internal(format!("cannot hand descriptors to the VMM: {e}")))?;
        let runtime = tokio::runtime::Handle::current();
        let spawn = || {
            let _inside = runtime.enter();
            command.spawn()
        };
        let mut child = start_apart(spawn).map_err(|e| Error::io("start", program, e))?;
        let pid = child.id().ok_or_else(|| Error::Internal("the VMM ended at once".into()))? as i32;
        let watched = VmProcess::watch(pid);
        if !matches!(watched, Ok(Some(_))) {
            // Nobody would know of it.
            let _ = child.start_kill();
        }
        // Reaps it; its end is seen by the pidfd.
        let (tell, status) = watch::channel(None);
        tokio::spawn(async move {
            let _ = tell.send(child.wait().await.ok());
        });
        let watched = watched.map_err(|e| Error::io("watch", program, e))?;
        let mut process = watched
            .ok_or_else(|| Error::Internal(format!("the VMM ended at once; {}", super::last_words(dir))))?;
        process.status = Some(status);
        Ok(process)
    }

    /// Finds a process that an earlier daemon started; None if it is gone or the number was used again.
    ///
    /// # Errors
    /// When that cannot be known: one that runs must not be taken for gone.
    pub fn adopt(pid: i32, started: u64) -> io::Result<Option<VmProcess>> {
        Ok(VmProcess::watch(pid)?.filter(|process| process.started == started))
    }

    /// Finds a process by the configuration that its command line names.
    ///
    /// # Errors
    /// As [`VmProcess::adopt`].
    pub fn find(config: &Path) -> io::Result<Option<VmProcess>> {
        let Some(pid) = process::with_argument(CONFIG, config)? else { return Ok(None) };
        let watched = VmProcess::watch(pid)?;
        Ok(if process::has_argument(pid, CONFIG, config)? { watched } else { None })
    }

    fn watch(pid: i32) -> io::Result<Option<VmProcess>> {
        let Some(pidfd) = process::open(pid, PidfdFlags::NONBLOCK)?.map(Arc::new) else { return Ok(None) };
        // Read after the pidfd is held, so that both speak of the same process.
        let Some(started) = start_time(pid)? else { return Ok(None) };
        let (tell, gone) = watch::channel(false);
        let watched = sys::register(pidfd.clone())?;
        tokio::spawn(async move {
            let _ = watched.readable().await;
            let _ = tell.send(true);
        });
        Ok(Some(VmProcess { pid, started, pidfd, gone, status: None }))
    }

    /// Returns when the process has ended.
    pub async fn gone(&self) {
        let mut gone = self.gone.clone();
        // An error says that the watcher is gone, with the runtime.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// Returns when the process has ended, with its status if that can be known.
    pub async fn end(&self) -> Option<ExitStatus> {
        self.gone().await;
        let mut status = self.status.clone()?;
        let status = status.wait_for(Option::is_some).await.ok()?;
        *status
    }

    /// Has it ended?
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// What it has used; None when it is gone.
    pub fn usage(&self) -> Option<Usage> {
        usage(self.pid).filter(|_| !self.is_gone())
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.gone().await;
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User time of all its threads, that of the guest included, nanoseconds.
    pub cpu_user_nanos: u64,
    /// Their system time, nanoseconds.
    pub cpu_system_nanos: u64,
    /// Memory that it holds, the guest's that was touched included, bytes.
    pub resident_bytes: u64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
    /// Those that did.
    pub major_faults: u64,
}

impl Usage {
    /// CPU time, nanoseconds.
    pub fn cpu_nanos(&self) -> u64 {
        self.cpu_user_nanos.saturating_add(self.cpu_system_nanos)
    }
}

/// What a process has used; None when there is none of that number.
pub fn usage(pid: i32) -> Option<Usage> {
    let stat = stat(pid).ok()??;
    let field = |number: usize| stat.get(number - 3).copied();
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Some(Usage {
        cpu_user_nanos: field(14)?.saturating_mul(tick),
        cpu_system_nanos: field(15)?.saturating_mul(tick),
        resident_bytes: field(24)?.saturating_mul(rustix::param::page_size() as u64),
        minor_faults: field(10)?,
        major_faults: field(12)?,
    })
}

/// Fields of /proc/PID/stat (proc(5)), from the third on.
fn stat(pid: i32) -> io::Result<Option<Vec<u64>>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(e) if e.kind() == io::ErrorKind::NotFound || process::is_gone(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    // The second field is in parentheses and may itself hold spaces and parentheses.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    // The state is a letter, a few others may be negative: none of them is asked for.
    Ok(fields.map(|fields| fields.map(|field| field.parse().unwrap_or(0)).collect()))
}

/// When the process started, clock ticks since boot: field 22.
pub fn start_time(pid: i32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.and_then(|stat| stat.get(22 - 3).copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_by_its_configuration() {
        // It waits without a child, which would have the same command line for a moment.
        let start = |config: &str| {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "read line", "vmm", "--config", config]).stdin(std::process::Stdio::piped());
            shell.spawn().unwrap()
        };
        let (mut other, mut child) = (start("/run/husk/a/vmm.json"), start("/run/husk/b/vmm.json"));
        // Linux lets the parent go on a moment before the new program's arguments can be read.
        let found = loop {
            if let Some(found) = VmProcess::find(Path::new("/run/husk/b/vmm.json")).unwrap() {
                break found;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        assert_eq!(found.pid, child.id() as i32);
        assert!(VmProcess::find(Path::new("/run/husk/c/vmm.json")).unwrap().is_none());
        found.kill().await;
        child.wait().unwrap();
        assert!(VmProcess::find(Path::new("/run/husk/b/vmm.json")).unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_its_number_alone_is_not_enough() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let started = start_time(pid).unwrap().unwrap();
        assert!(VmProcess::adopt(pid, started + 1).unwrap().is_none());
        let process = VmProcess::adopt(pid, started).unwrap().unwrap();
        assert!(!process.is_gone() && process.usage().is_some());
        process.kill().await;
        assert!(process.is_gone() && process.usage().is_none());
        child.wait().unwrap();
        assert!(VmProcess::adopt(pid, started).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_a_process_uses_is_told() {
        // This process itself: one that has just started may show no memory, as the kernel counts by CPU and adds
        // up now and then.
        let pid = std::process::id() as i32;
        let process = VmProcess::adopt(pid, start_time(pid).unwrap().unwrap()).unwrap().unwrap();
        let usage = process.usage().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.minor_faults > 100, "{usage:?}");
    }
}
