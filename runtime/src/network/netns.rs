//! Network namespaces that outlive their processes: bind mounts of `/proc/thread-self/ns/net`.
//!
//! A thread that has entered a namespace is never used for anything else: it ends there.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};
use tokio::sync::oneshot;

use super::{NetworkError, private_dir};

/// `NSFS_MAGIC` of linux/magic.h, the file system of namespaces.
const NSFS: FsType = FsType(0x6e73_6673);

/// How many mounts on one path are taken off before that is given up.
const MAX_STACKED: usize = 16;

/// Makes a namespace at `path`, whose directory is made if need be.
pub(super) async fn create(path: &Path) -> Result<(), NetworkError> {
    let path = path.to_owned();
    on_thread(path.clone(), move || create_here(&path)).await
}

/// Makes the namespace with the calling thread, which is in it afterwards.
fn create_here(path: &Path) -> Result<(), NetworkError> {
    if let Some(dir) = path.parent() {
        private_dir(dir).map_err(at(path, "make its directory"))?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)
        .map_err(at(path, "make its mount point"))?;
    let made = unshare(CloneFlags::CLONE_NEWNET).map_err(at(path, "unshare")).and_then(|()| {
        let source = Some("/proc/thread-self/ns/net");
        mount(source, path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(at(path, "bind mount"))
    });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Opens the namespace at `path`.
pub(super) fn open(path: &Path) -> Result<File, NetworkError> {
    File::open(path).map_err(at(path, "open"))
}

/// Whether a namespace is mounted at `path`.
pub(super) fn exists(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS)
}

/// Unmounts and removes `path`; that there is nothing is not an error. The namespace itself lasts until the
/// last process has left it and the last descriptor is closed.
pub(super) async fn remove(path: &Path) -> Result<(), NetworkError> {
    let path = path.to_owned();
    on_thread(path.clone(), move || remove_here(&path)).await
}

fn remove_here(path: &Path) -> Result<(), NetworkError> {
    for _ in 0..MAX_STACKED {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: not a mount point.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(at(path, "unmount")(errno)),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(at(path, "remove its mount point")(error))
        }
        _ => Ok(()),
    }
}

/// The names in `dir`; none when it does not exist.
pub(super) fn list(dir: &Path) -> Result<Vec<String>, NetworkError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(dir, "list"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(at(dir, "list"))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Runs `work` in the namespace at `path`, on a thread of its own with an event loop and a netlink
/// connection of its own.
pub(super) async fn run<T, W, F>(path: &Path, work: W) -> Result<T, NetworkError>
where
    T: Send + 'static,
    W: FnOnce(rtnetlink::Handle) -> F + Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    let path = path.to_owned();
    on_thread(path.clone(), move || {
        let file = open(&path)?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(at(&path, "enter"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(at(&path, "make an event loop"))?;
        runtime.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection().map_err(at(&path, "open netlink"))?;
            let connection = tokio::spawn(connection);
            let done = work(netlink).await;
            connection.abort();
            done
        })
    })
    .await
}

/// Names the namespace and the step in a system error.
fn at<E: Into<io::Error>>(path: &Path, step: &'static str) -> impl FnOnce(E) -> NetworkError {
    move |source| NetworkError::Namespace { path: path.to_owned(), step, source: source.into() }
}

/// Runs `work` on a fresh thread and waits for it.
async fn on_thread<T, W>(path: PathBuf, work: W) -> Result<T, NetworkError>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T, NetworkError> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        // Nobody waits any more when the caller's future was dropped.
        let _ = sender.send(work());
    });
    spawned.map_err(at(&path, "start a thread"))?;
    match receiver.await {
        Ok(done) => done,
        Err(_) => Err(at(&path, "wait for its thread")(io::Error::other("the thread panicked"))),
    }
}
