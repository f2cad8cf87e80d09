//! The signals by which a process is asked to end.

use std::io;

use vmm_sys_util::signal::{block_signal, create_sigset};

const TERMINATION: [i32; 2] = [libc::SIGTERM, libc::SIGINT];

/// Keeps SIGTERM and SIGINT for [`wait_for_termination`]: to be called before there are other threads.
///
/// # Errors
/// What the system says.
pub fn hold_termination() -> io::Result<()> {
    TERMINATION
        .into_iter()
        .try_for_each(|signal| block_signal(signal).map_err(|error| io::Error::other(format!("{error:?}"))))
}

/// Waits until the process is asked to end.
///
/// # Errors
/// What the system says.
pub fn wait_for_termination() -> io::Result<()> {
    let set = create_sigset(&TERMINATION)?;
    let mut signal = 0;
    // SAFETY: both pointers are to live values of this frame; the set was initialised by create_sigset.
    match unsafe { libc::sigwait(&set, &mut signal) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
