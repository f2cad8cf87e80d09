//! Children of PID 1: every process of the guest whose parent died becomes one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};
use crate::sys;

type OnExit = Box<dyn FnOnce(i32) + Send>;

/// Reaps all children and tells those who asked how theirs ended.
#[derive(Default)]
pub struct Reaper {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    watched: HashMap<i32, OnExit>,
    /// Statuses of children nobody has asked for yet, kept while a start is under way: a short process may
    /// end before the agent learns its pid.
    early: HashMap<i32, i32>,
    starts: usize,
}

impl Reaper {
    /// Says that a process is being started; until the guard is dropped no status is lost.
    pub fn starting(self: &Arc<Self>) -> StartGuard {
        self.with(|inner| inner.starts += 1);
        StartGuard(Arc::clone(self))
    }

    /// Calls `on_exit` with the exit code (128 + n for signal n) once the child `pid` has ended, at once when
    /// it has already.
    pub fn watch(&self, pid: i32, on_exit: OnExit) {
        let over = self.with(|inner| match inner.early.remove(&pid) {
            Some(code) => Some((code, on_exit)),
            None => {
                inner.watched.insert(pid, on_exit);
                None
            }
        });
        if let Some((code, on_exit)) = over {
            on_exit(code);
        }
    }

    /// Reaps what can be reaped now.
    pub fn reap(&self) {
        while let Ok(Some((pid, code))) = sys::wait_any() {
            self.ended(pid, code);
        }
    }

    fn ended(&self, pid: i32, code: i32) {
        let on_exit = self.with(|inner| {
            let on_exit = inner.watched.remove(&pid);
            if on_exit.is_none() && inner.starts > 0 {
                inner.early.insert(pid, code);
            }
            on_exit
        });
        if let Some(on_exit) = on_exit {
            on_exit(code);
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A start under way, see [`Reaper::starting`].
pub struct StartGuard(Arc<Reaper>);

impl Drop for StartGuard {
    fn drop(&mut self) {
        self.0.with(|inner| {
            inner.starts -= 1;
            if inner.starts == 0 {
                inner.early.clear();
            }
        });
    }
}

/// Reaps for ever, on every SIGCHLD.
pub async fn run(reaper: Arc<Reaper>) -> Result<()> {
    let mut children = signal(SignalKind::child()).context(|| "listening for SIGCHLD")?;
    loop {
        reaper.reap();
        if children.recv().await.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_status_before_the_watch_is_kept_during_a_start() {
        let reaper = Arc::new(Reaper::default());
        let (sender, receiver) = mpsc::channel();
        let guard = reaper.starting();
        reaper.ended(7, 3);
        reaper.watch(7, Box::new(move |code| sender.send(code).unwrap()));
        assert_eq!(receiver.try_recv(), Ok(3));
        reaper.ended(8, 1);
        drop(guard);
        assert!(reaper.with(|inner| inner.early.is_empty()));
    }

    #[test]
    fn a_status_after_the_watch_arrives() {
        let reaper = Arc::new(Reaper::default());
        let (sender, receiver) = mpsc::channel();
        reaper.watch(9, Box::new(move |code| sender.send(code).unwrap()));
        reaper.ended(9, 137);
        assert_eq!(receiver.try_recv(), Ok(137));
    }
}
