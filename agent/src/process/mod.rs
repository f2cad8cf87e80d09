//! A process of a container: its standard streams, its output, its end.

pub mod output;
mod pump;
pub mod stdio;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use husk_proto::agent::{ExitStatus, OutputStream, TerminalSize};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use self::output::Output;
use crate::error::{Context, Error, Result};
use crate::sys;

/// The host's ends of a process's standard streams.
#[derive(Default)]
pub struct HostEnds {
    /// Standard input's writing end.
    pub stdin: Option<OwnedFd>,
    /// Standard output's reading end.
    pub stdout: Option<OwnedFd>,
    /// Standard error's reading end.
    pub stderr: Option<OwnedFd>,
}

/// A process of a container.
pub struct Process {
    /// What it has written.
    pub output: Arc<Output>,
    exit: watch::Sender<Option<ExitStatus>>,
    stdin: tokio::sync::Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    terminal: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    /// Of the terminal, from its beginning.
    initial_size: Mutex<Option<TerminalSize>>,
    pid: Mutex<Option<i32>>,
    started: OnceLock<Instant>,
}

impl Process {
    /// One that has not been started; its output is open until then.
    pub fn new(tty: bool) -> Arc<Self> {
        Arc::new(Self {
            output: Arc::new(Output::new(if tty { 1 } else { 2 })),
            exit: watch::Sender::new(None),
            stdin: tokio::sync::Mutex::new(None),
            terminal: Mutex::new(None),
            initial_size: Mutex::new(None),
            pid: Mutex::new(None),
            started: OnceLock::new(),
        })
    }

    /// The running process's pid.
    pub fn pid(&self) -> Option<i32> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal to the process, if it runs.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        match sys::kill(pid, signal) {
            // It has just ended and is not reaped yet.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result.context(|| format!("sending signal {signal} to process {pid}")),
        }
    }

    /// The size that the terminal shall have from its beginning.
    pub fn set_initial_size(&self, size: Option<TerminalSize>) {
        *self.initial_size.lock().unwrap_or_else(PoisonError::into_inner) = size;
    }

    /// Notes that the process runs.
    pub fn started(&self, pid: i32) {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        // A process is started once.
        let _ = self.started.set(Instant::now());
    }

    /// Notes the process's end: its exit code, and whether the kernel killed it for want of memory.
    pub fn ended(&self, code: i32, oom_killed: bool) {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let lived = self.started.get().map(Instant::elapsed).unwrap_or_default();
        let lived_nanos = u64::try_from(lived.as_nanos()).unwrap_or(u64::MAX);
        self.exit.send_replace(Some(ExitStatus { code, lived_nanos, oom_killed }));
    }

    /// How the process ended, if it has.
    pub fn exit(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for the process's end.
    pub async fn wait(&self) -> Result<ExitStatus> {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        exit.ok().flatten().ok_or_else(|| Error::Internal("the process is forgotten".into()))
    }

    /// Takes the host's ends of pipes and begins to read from them.
    pub async fn attach_pipes(&self, ends: HostEnds) -> Result<()> {
        for (end, stream) in [(ends.stdout, OutputStream::Stdout), (ends.stderr, OutputStream::Stderr)] {
            match end {
                Some(end) => self.pump(Arc::new(register(end)?), stream),
                None => self.output.close_stream(),
            }
        }
        if let Some(stdin) = ends.stdin {
            *self.stdin.lock().await = Some(Arc::new(register(stdin)?));
        }
        Ok(())
    }

    /// Takes the host's side of a terminal and begins to read from it.
    pub async fn attach_terminal(&self, terminal: OwnedFd, stdin: bool) -> Result<()> {
        let terminal = Arc::new(register(terminal)?);
        self.pump(Arc::clone(&terminal), OutputStream::Stdout);
        if stdin {
            *self.stdin.lock().await = Some(Arc::clone(&terminal));
        }
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = Some(terminal);
        let size = *self.initial_size.lock().unwrap_or_else(PoisonError::into_inner);
        size.map_or(Ok(()), |size| self.resize(&size))
    }

    fn pump(&self, source: Arc<AsyncFd<OwnedFd>>, stream: OutputStream) {
        tokio::spawn(pump::run(source, stream, Arc::clone(&self.output), self.exit.subscribe()));
    }

    /// Writes to standard input, waiting as long as the process makes it wait, and closes it afterwards when
    /// `close` says so. A terminal has no end to close.
    pub async fn write_stdin(&self, data: &[u8], close: bool) -> Result<()> {
        // Held while writing: concurrent writers go one after the other.
        let mut stdin = self.stdin.lock().await;
        let closed = || Error::State("standard input is closed".into());
        if !data.is_empty() {
            let target = stdin.clone().ok_or_else(closed)?;
            let mut exit = self.exit.subscribe();
            let written = tokio::select! {
                written = pump::write_all(&target, data) => written,
                _ = exit.wait_for(Option::is_some) => Err(std::io::ErrorKind::BrokenPipe.into()),
            };
            match written {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                    *stdin = None;
                    return Err(closed());
                }
                other => other.context(|| "writing to standard input")?,
            }
        }
        if close {
            *stdin = None;
        }
        Ok(())
    }

    /// Sets the terminal's size.
    pub fn resize(&self, size: &TerminalSize) -> Result<()> {
        let terminal = self.terminal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let terminal = terminal.ok_or_else(|| Error::State("the process has no terminal".into()))?;
        let cells = |n: u32| {
            u16::try_from(n).map_err(|_| Error::Invalid(format!("a terminal of {n} cells is too large")))
        };
        sys::set_window_size(terminal.get_ref().as_fd(), cells(size.rows)?, cells(size.columns)?)
            .context(|| "setting the terminal's size")
    }
}

fn register(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))
        .context(|| "making a stream non-blocking")?;
    sys::watch(fd).context(|| "watching a stream")
}
