//! Threads that are held to their system calls from their first step on.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use husk_jail::JailError;
use husk_jail::seccomp::Filter;

/// Bytes of a thread's stack. None needs much, and Linux would back one of 2 MiB with a huge page as soon as it is
/// touched.
const STACK: usize = 256 << 10;

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

/// Starts a thread, without waiting until it is held to its filter.
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

/// Threads that are started side by side, none of which is to be waited for alone.
#[derive(Default)]
pub struct Starting(Vec<Begun>);

impl Starting {
    /// Starts one more.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub fn add(
        &mut self,
        name: &str,
        filter: &Filter,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        self.0.push(spawn(name, filter, work)?);
        Ok(())
    }

    /// Waits until each of them is held to its filter.
    ///
    /// # Errors
    /// When the system refuses a filter.
    pub fn confined(self) -> io::Result<()> {
        self.0.into_iter().try_for_each(|begun| begun.confined().map(drop))
    }
}
