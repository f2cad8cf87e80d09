//! Threads that are held to their system calls from their first step on.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

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
    told.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
    Ok(thread)
}
