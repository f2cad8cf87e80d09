//! Threads that are held to their system calls from their first step on.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use husk_jail::JailError;
use husk_jail::seccomp::Filter;

/// Bytes of a thread's stack. None needs much, and Linux would back one of 2 MiB with a huge page as soon as it is
/// touched.
const STACK: usize = 256 << 10;

/// Starts a thread; its filter holds when this returns.
///
/// # Errors
/// When the system refuses the thread or the filter.
pub fn start(
    name: &str,
    filter: &Filter,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    spawn(name, filter, work)?.confined()
}

/// Starts a thread for each of `works`, side by side; the filter holds each of them when this returns.
///
/// # Errors
/// When the system refuses a thread or the filter.
pub fn start_all<W: FnOnce() + Send + 'static>(
    name: &str,
    filter: &Filter,
    works: impl IntoIterator<Item = W>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let begun: Vec<_> = works.into_iter().map(|work| spawn(name, filter, work)).collect::<io::Result<_>>()?;
    begun.into_iter().map(Begun::confined).collect()
}

/// A thread that was started, and may not be held to its filter yet.
pub struct Begun {
    thread: JoinHandle<()>,
    told: mpsc::Receiver<Result<(), JailError>>,
}

impl Begun {
    /// Waits until the filter holds.
    ///
    /// # Errors
    /// When the system refuses the filter.
    pub fn confined(self) -> io::Result<JoinHandle<()>> {
        self.told.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(self.thread)
    }
}

/// The same as [`start`], without waiting.
///
/// # Errors
/// When the system refuses the thread.
pub fn spawn(name: &str, filter: &Filter, work: impl FnOnce() + Send + 'static) -> io::Result<Begun> {
    let (tell, told) = mpsc::sync_channel(1);
    let filter = filter.clone();
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        let held = filter.install();
        let confined = held.is_ok();
        let _ = tell.send(held);
        drop(tell);
        if confined {
            work();
        }
    })?;
    Ok(Begun { thread, told })
}
