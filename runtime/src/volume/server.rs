//! The process that serves a pod's volumes: one `virtiofsd`, confined by itself (namespaces, an empty root but
//! for the share, seccomp) and from outside ([`super::confine`]). It ends when the VMM closes the connection.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};
use husk_jail::namespaces::start_apart;
use rustix::process::PidfdFlags;

use super::confine::{self, confine};
use crate::cgroup::Door;
use crate::error::{Error, Result};
use crate::host;
use crate::process;
use crate::vm;

/// Number of the listening socket in the server.
const LISTENER: i32 = 3;
/// How much of what a server said is told on, bytes.
const LAST_WORDS: usize = 500;
/// The argument by which a server is found again.
const SHARED_DIR: &str = "--shared-dir";

/// Comes when a server has ended, and tells how.
pub type End = Pin<Box<dyn Future<Output = String> + Send>>;

/// Starts the server of `dir` in the cgroup behind the door; what is answered is a connection to it, and its end.
pub fn start(program: &Path, dir: &Path, door: Door) -> Result<(OwnedFd, End)> {
    host::file(program, "install virtiofsd, or set volumes.virtiofsd").map_err(Error::Unavailable)?;
    let socket = dir.with_extension("sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(|e| Error::io("listen on", &socket, e))?;
    let connection = UnixStream::connect(&socket).map_err(|e| Error::io("connect to", &socket, e));
    let _ = std::fs::remove_file(&socket);
    let log_path = log(dir);
    let log = File::create(&log_path).map_err(|e| Error::io("create", &log_path, e))?;
    let mut command = tokio::process::Command::new(program);
    command
        .arg(SHARED_DIR)
        .arg(dir)
        .args(["--fd", &LISTENER.to_string(), "--sandbox", "namespace", "--announce-submounts"])
        // Content may change on the host at any time (ConfigMaps, Secrets): seen within a second.
        .args(["--cache", "auto", "--log-level", "warn"])
        .args(confine::FLAGS)
        .args(["--rlimit-nofile", &confine::max_files().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .env_clear()
        .current_dir("/")
        // Not in the daemon's group: what ends the daemon's terminal must not end its pods.
        .process_group(0);
    door.admit(&mut command);
    confine(&mut command)?;
    command
        .fd_mappings(vec![FdMapping { parent_fd: listener.into(), child_fd: LISTENER }])
        .map_err(|e| Error::Internal(format!("cannot hand the socket to virtiofsd: {e}")))?;
    let runtime = tokio::runtime::Handle::current();
    // What it leaves outside of its own PID namespace is in one of the pod's as well.
    let spawn = || {
        let _inside = runtime.enter();
        command.spawn()
    };
    let mut child = start_apart(spawn).map_err(|e| Error::io("start", program, e))?;
    // Reaps it, whoever waits for the end.
    let ended = tokio::spawn(async move { child.wait().await });
    let end = async move {
        match ended.await {
            Ok(Ok(status)) => status.to_string(),
            _ => "nobody knows how".to_owned(),
        }
    };
    Ok((connection?.into(), Box::pin(end)))
}

/// The end of a server of `dir` that an earlier daemon started; `None` when there is no server.
///
/// # Errors
/// When that cannot be known.
pub fn find(dir: &Path) -> Result<Option<End>> {
    let failed = |e| Error::io("look for the virtiofsd of", dir, e);
    let Some(pid) = pid(dir)? else { return Ok(None) };
    let Some(pidfd) = process::open(pid, PidfdFlags::NONBLOCK).map_err(failed)? else { return Ok(None) };
    // Looked at again now that the descriptor holds the process: the number may have been used again.
    if !process::has_argument(pid, SHARED_DIR, dir).map_err(failed)? {
        return Ok(None);
    }
    let watched = vm::sys::register(Arc::new(pidfd)).map_err(failed)?;
    Ok(Some(Box::pin(async move {
        let _ = watched.readable().await;
        "with which status only the daemon that started it could know".to_owned()
    })))
}

fn pid(dir: &Path) -> Result<Option<i32>> {
    process::with_argument(SHARED_DIR, dir).map_err(|e| Error::io("look for the virtiofsd of", dir, e))
}

/// The mount namespace of the server of `dir`.
///
/// # Errors
/// There is no server, or it is not confined: then nothing may be mounted for it.
pub fn mount_namespace(dir: &Path) -> Result<File> {
    let pid = pid(dir)?.ok_or_else(|| {
        Error::Unavailable(format!("virtiofsd is gone: what it said last is in {}", log(dir).display()))
    })?;
    let namespace = |process: &str| -> Result<(File, u64)> {
        let path = Path::new("/proc").join(process).join("ns/mnt");
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let number = file.metadata().map_err(|e| Error::io("look at", &path, e))?.ino();
        Ok((file, number))
    };
    let ((file, its), (_, ours)) = (namespace(&pid.to_string())?, namespace("self")?);
    if its == ours {
        return Err(Error::Internal(format!("virtiofsd (process {pid}) has no mount namespace of its own")));
    }
    Ok(file)
}

/// Ends the server of `dir` if there is one: one that was not connected to the VMM would wait for ever.
///
/// # Errors
/// When it cannot be known whether there is one.
pub fn stop(dir: &Path) -> Result<()> {
    process::kill_with_argument(SHARED_DIR, dir).map_err(|e| Error::io("end the virtiofsd of", dir, e))?;
    let _ = std::fs::remove_file(log(dir));
    Ok(())
}

/// What the server of `dir` said last.
pub fn last_words(dir: &Path) -> String {
    let bytes = std::fs::read(log(dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LAST_WORDS)..]).into_owned();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn log(dir: &Path) -> PathBuf {
    dir.with_extension("log")
}
