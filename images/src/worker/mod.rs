//! Runs `husk-convert`, which parses what tenants supply, at arm's length.

pub(crate) mod job;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use husk_failpoint::reach;
use husk_jail::namespaces::start_apart;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::config::RegistryConfig;
use crate::convert::Limits;
use crate::error::{ImageError, IoContext, Result};
use job::OUTCOME_MAX;
pub use job::{DEATH_STATUS, FIRST_FD, Job, Outcome, Task};

/// Bytes that may wait for a worker: what Linux grants everyone (pipe(7), pipe-max-size).
const PIPE: usize = 1 << 20;

/// How to start workers.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    program: PathBuf,
    run_as: u32,
    cgroups: Vec<PathBuf>,
    limits: Limits,
    stall: Duration,
}

impl Workers {
    pub(crate) fn new(config: &RegistryConfig) -> Self {
        Self {
            program: config.worker.clone(),
            run_as: config.worker_id,
            cgroups: config.worker_cgroups.clone(),
            limits: config.limits.clone(),
            stall: config.stall,
        }
    }

    /// Starts a worker on `task` with its `files`, in the task's order.
    pub(crate) fn start(&self, task: Task, files: Vec<File>) -> Result<Worker> {
        let program = self.program.display();
        // Within the CPU time that it may take, a worker that computes is no stalled one.
        let patience = match task {
            Task::Unpack | Task::Layer => self.stall,
            Task::Image { .. } | Task::Qcow2 { .. } => {
                self.stall.max(Duration::from_secs(self.limits.cpu_seconds))
            }
        };
        let job = Job { task, limits: self.limits.clone(), run_as: self.run_as };
        let job =
            serde_json::to_string(&job).map_err(std::io::Error::from).during(|| "describing a job".into())?;
        let mappings = files
            .into_iter()
            .zip(FIRST_FD..)
            .map(|(file, child_fd)| FdMapping { parent_fd: OwnedFd::from(file), child_fd })
            .collect();
        let mut command = Command::new(&self.program);
        command.arg(job).env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
            .fd_mappings(mappings)
            .map_err(std::io::Error::other)
            .during(|| format!("starting {program}"))?;
        let mut child = spawn(&mut command).during(|| format!("starting {program}"))?;
        reach(format_args!("started a conversion worker"));
        self.admit(&child);
        let input = child.stdin.take();
        if let Some(input) = &input {
            // The fewer the turns of the two processes, the better; but it works with any pipe.
            let _ = rustix::pipe::fcntl_setpipe_size(input, PIPE);
        }
        Ok(Worker { child, input, patience })
    }

    /// Puts a worker that has just begun into its cgroups. They count what it uses, and limit nothing: without them it
    /// works as well.
    fn admit(&self, child: &Child) {
        for processes in &self.cgroups {
            let Some(pid) = child.id() else { return };
            if let Err(error) = std::fs::write(processes, pid.to_string()) {
                tracing::warn!(
                    "a conversion worker does not come into its cgroup: {}: {error}",
                    processes.display()
                );
            }
        }
    }
}

/// Root's workers begin in PID namespaces of their own, which is what nobody else can give them.
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    if !rustix::process::geteuid().is_root() {
        return command.spawn();
    }
    let runtime = tokio::runtime::Handle::current();
    start_apart(|| {
        let _inside = runtime.enter();
        command.spawn()
    })
}

/// A running worker. Dropping it kills it.
pub(crate) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    patience: Duration,
}

impl Worker {
    /// Feeds `bytes`. False once the worker takes no more: its outcome says why.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<bool> {
        let Some(input) = &mut self.input else { return Ok(false) };
        match timeout(self.patience, input.write_all(bytes)).await {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Ok(Err(error)) => return Err(error).during(|| "feeding the conversion worker".into()),
            Err(_) => return Err(self.stalled()),
        }
        self.input = None;
        Ok(false)
    }

    /// Ends the input and waits for the outcome.
    pub(crate) async fn finish(self) -> Result<Outcome> {
        self.finish_while(|| 0).await
    }

    /// The same, with patience for as long as `progress` changes.
    pub(crate) async fn finish_while(mut self, progress: impl Fn() -> u64) -> Result<Outcome> {
        self.input = None;
        let mut answer = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            let mut output = output.take(OUTCOME_MAX);
            let mut reading = pin!(output.read_to_end(&mut answer));
            let read = loop {
                let before = progress();
                match timeout(self.patience, &mut reading).await {
                    Ok(read) => break read,
                    Err(_) if progress() != before => {}
                    Err(_) => return Err(self.stalled()),
                }
            };
            read.during(|| "reading the conversion worker's answer".into())?;
        }
        let ended = timeout(self.patience, self.child.wait()).await.map_err(|_| self.stalled())?;
        let status = ended.during(|| "waiting for the conversion worker".into())?;
        if !status.success() {
            return Err(death(status));
        }
        match serde_json::from_slice(&answer) {
            Ok(Outcome::Failed(error)) => Err(error.into()),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(error.into()).during(|| "the conversion worker's answer".into()),
        }
    }

    fn stalled(&self) -> ImageError {
        let source = std::io::ErrorKind::TimedOut.into();
        ImageError::Io {
            what: format!("the conversion worker made no progress in {:?}", self.patience),
            source,
        }
    }
}

/// What the end of a worker without an answer means.
fn death(status: ExitStatus) -> ImageError {
    match status.signal().or_else(|| Some(status.code()? - DEATH_STATUS)) {
        Some(libc::SIGABRT) => ImageError::TooLarge("its conversion needs too much memory".into()),
        Some(libc::SIGXCPU) => ImageError::TooLarge("its conversion takes too much CPU time".into()),
        Some(libc::SIGXFSZ) => ImageError::TooLarge("its files are too large".into()),
        _ => ImageError::Io {
            what: "the conversion worker died".into(),
            source: std::io::Error::other(status.to_string()),
        },
    }
}

/// An answer of the wrong kind.
pub(crate) fn unexpected(outcome: &Outcome) -> ImageError {
    ImageError::Io {
        what: "the conversion worker's answer".into(),
        source: std::io::Error::other(format!("{outcome:?} was not asked for")),
    }
}
