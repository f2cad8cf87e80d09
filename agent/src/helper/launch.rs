//! The agent's side of a helper: starts it and waits until the new process has become its command.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::Task;
use super::report::{MAX_REPORT, Report};
use crate::container::IdMappings;
use crate::error::{Context, Error, Result};
use crate::owner::Owner;
use crate::paths;
use crate::process::Process;
use crate::process::stdio::{ProcessEnds, pipes};
use crate::sys;

/// How long a helper may take, on a host that has other work too: less than the daemon's limit for a call (60 s), past which
/// nobody would hear why, and a process could start that was given up already.
const PATIENCE: Duration = Duration::from_secs(50);

/// What the new process's standard streams are.
pub struct Options {
    /// A terminal in place of pipes.
    pub terminal: bool,
    /// Standard input can be written to.
    pub stdin: bool,
    /// Whose the streams are.
    pub owner: Owner,
}

/// Runs the helper `command` and answers the new process's pid once it has become its own command. Its streams
/// belong to `process` by then.
pub async fn run(command: &str, mut task: Task, process: &Process, options: Options) -> Result<i32> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = Leftover(Path::new(paths::CONSOLES).join(format!("{name}.json")));
    let socket = Leftover(Path::new(paths::CONSOLES).join(format!("{name}.sock")));

    let (listener, ends) = if options.terminal {
        task.console = Some(socket.0.clone());
        let listener = UnixListener::bind(&socket.0).context(|| "listening for the terminal")?;
        (Some(listener), ProcessEnds::null())
    } else {
        let (host, ends) = pipes(options.stdin, options.owner)?;
        process.attach_pipes(host).await?;
        (None, ends)
    };
    let json = serde_json::to_vec(&task).map_err(|e| Error::Internal(format!("writing the task: {e}")))?;
    fs::write(&file.0, json).context(|| format!("writing {}", file.0.display()))?;
    let pipe = spawn(command, file.0.as_os_str(), ends)?;

    let mut lines = Vec::new();
    let outcome = timeout(PATIENCE, follow(pipe, &mut lines, listener.as_ref(), process, &options)).await;
    settled(outcome, &lines)
}

/// Starts a process that holds namespaces; answers its pid.
pub async fn hold(mappings: Option<&IdMappings>) -> Result<i32> {
    let mappings =
        serde_json::to_string(&mappings).map_err(|e| Error::Internal(format!("writing ids: {e}")))?;
    let mut pipe = spawn(super::HOLD, mappings.as_ref(), ProcessEnds::null())?.take(MAX_REPORT as u64);
    let mut lines = Vec::new();
    let read = timeout(PATIENCE, pipe.read_to_end(&mut lines)).await;
    settled(read.map(|read| read.context(|| "reading a helper's report").map(drop)), &lines)
}

/// What came of a helper.
fn settled(outcome: std::result::Result<Result<()>, Elapsed>, lines: &[u8]) -> Result<i32> {
    let report = Report::parse(lines);
    let failure = match outcome {
        Ok(Ok(())) => report.failure,
        Ok(Err(error)) => report.failure.or(Some(error)),
        Err(_) => {
            Some(Error::Internal(format!("the process has not started within {} s", PATIENCE.as_secs())))
        }
    };
    match (failure, report.pid) {
        (None, Some(pid)) => Ok(pid),
        (None, None) => Err(Error::Internal("the helper ended without a word".into())),
        (Some(failure), pid) => {
            // It has not become its command, so it is still the agent's own child and its pid is its own.
            if let Some(pid) = pid {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            Err(failure)
        }
    }
}

fn spawn(command: &str, task: &OsStr, ends: ProcessEnds) -> Result<pipe::Receiver> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).context(|| "making a pipe")?;
    let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&ours, flags).context(|| "making a pipe non-blocking")?;
    let mut helper = Command::new(paths::SELF);
    helper.arg(command).arg(task).env_clear();
    helper.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
    sys::pass_report_fd(&mut helper, theirs);
    // The reaper reaps it. Dropping `helper` closes this side's copies of what the process gets.
    helper.spawn().context(|| "starting a helper")?;
    pipe::Receiver::from_owned_fd(ours).context(|| "watching a pipe")
}

/// Reads the helper's report to its end, which is when all of the descriptor's holders have ended or become
/// something else, and takes the terminal when there is one.
async fn follow(
    pipe: pipe::Receiver,
    lines: &mut Vec<u8>,
    listener: Option<&UnixListener>,
    process: &Process,
    options: &Options,
) -> Result<()> {
    let mut pipe = pipe.take(MAX_REPORT as u64);
    let reading = pipe.read_to_end(lines);
    tokio::pin!(reading);
    if let Some(listener) = listener {
        tokio::select! {
            // What was sent before the end must be found.
            biased;
            terminal = receive_terminal(listener) => {
                let terminal = terminal?;
                own(&terminal, options.owner)?;
                process.attach_terminal(terminal, options.stdin).await?;
            }
            read = &mut reading => {
                read.context(|| "reading a helper's report")?;
                return Err(Error::Internal("the helper sent no terminal".into()));
            }
        }
    }
    reading.await.context(|| "reading a helper's report").map(drop)
}

async fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd> {
    let (socket, _) = listener.accept().await.context(|| "accepting the terminal's connection")?;
    loop {
        socket.readable().await.context(|| "waiting for the terminal")?;
        match socket.try_io(Interest::READABLE, || sys::receive_fd(socket.as_fd())) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            received => return received.context(|| "receiving the terminal"),
        }
    }
}

/// Gives the process's side of the terminal to its user, who may want to open it by its name.
fn own(terminal: &OwnedFd, owner: Owner) -> Result<()> {
    let slave = sys::terminal_peer(terminal.as_fd()).context(|| "opening the terminal's other side")?;
    fchown(&slave, Some(Uid::from_raw(owner.uid)), None::<Gid>).context(|| "giving the terminal to its user")
}

/// A file that is removed when it is no longer needed.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
