//! System calls that have no safe wrapper here.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::ptr;

use husk_images::worker::FIRST_FD;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

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
    // SAFETY: no one in this process owns a descriptor from `end` on: it has just begun.
    check(unsafe { libc::close_range(end as libc::c_uint, libc::c_uint::MAX, 0) })?;
    // SAFETY: each is open, as just seen, and owned by nobody else: the parent made them for this.
    Ok((FIRST_FD..end).map(|fd| unsafe { File::from_raw_fd(fd) }).collect())
}

/// Sets a resource's limit for good.
pub fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    // A limit that is lower already stays.
    let value = value.min(limit.rlim_max);
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is valid for the call.
    check(unsafe { libc::setrlimit(resource, &limit) })
}

/// Becomes the user and group `id` without other groups and thereby loses all capabilities; nothing if this is
/// not root.
pub fn drop_root(id: u32) -> io::Result<()> {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(());
    }
    // SAFETY: an empty list needs no memory.
    check(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::setresuid(id, id, id) })
}

/// No program that is executed gives rights, and no other process of the user may look into this one.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}
