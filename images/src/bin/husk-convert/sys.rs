//! System calls that have no safe wrapper here.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use husk_images::worker::{DEATH_STATUS, FIRST_FD};
use husk_jail::descriptors;

/// Takes `count` descriptors from [`FIRST_FD`] on, and closes all others above standard error. To be called
/// once, before anything else opens a descriptor.
pub fn take_files(count: usize) -> io::Result<Vec<File>> {
    let end = i32::try_from(count).ok().and_then(|count| FIRST_FD.checked_add(count));
    let end = end.ok_or(io::ErrorKind::InvalidInput)?;
    for fd in FIRST_FD..end {
        // SAFETY: F_GETFD takes no pointer; on a closed descriptor it fails.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    descriptors::close_all_but(&(FIRST_FD..end).collect::<Vec<_>>()).map_err(|e| e.source)?;
    // SAFETY: each is open, as just seen, and owned by nobody else: the parent made them for this.
    Ok((FIRST_FD..end).map(|fd| unsafe { File::from_raw_fd(fd) }).collect())
}

/// Lets the signals by which a process runs out of something end it with a status that tells which: the first process of
/// a PID namespace gets none that it does not handle.
pub fn end_by_signals() -> io::Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: takes a number, does not return, and may be called in a signal handler (signal-safety(7)).
        unsafe { libc::_exit(DEATH_STATUS + signal) }
    }
    for signal in [libc::SIGABRT, libc::SIGXCPU, libc::SIGXFSZ] {
        let handler: extern "C" fn(libc::c_int) = end;
        // SAFETY: the handler does nothing but end the process.
        if unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
