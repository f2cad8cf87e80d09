//! Reads and writes of files straight from and to guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Pieces of guest memory, one after the other.
pub type Slices<'a> = [VolatileSlice<'a>];

/// The most pieces that one system call takes (`UIO_MAXIOV`); more are left for the next call.
const MAX_IOVECS: usize = 1024;

fn iovecs(slices: &Slices<'_>) -> Vec<libc::iovec> {
    slices
        .iter()
        .take(MAX_IOVECS)
        .map(|slice| libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() })
        .collect()
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `preadv` into guest memory.
///
/// # Errors
/// What the system says.
pub fn read_at(file: BorrowedFd<'_>, slices: &Slices<'_>, offset: u64) -> io::Result<usize> {
    let iovecs = iovecs(slices);
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the vectors describe guest memory that the slices' lifetimes keep mapped; the kernel writes
    // into it, which is no different from the guest doing so, and no Rust reference to it exists.
    check(unsafe { libc::preadv64(file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32, offset) })
}

/// `pwritev` from guest memory.
///
/// # Errors
/// What the system says.
pub fn write_at(file: BorrowedFd<'_>, slices: &Slices<'_>, offset: u64) -> io::Result<usize> {
    let iovecs = iovecs(slices);
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the vectors describe guest memory that the slices' lifetimes keep mapped; the kernel only reads
    // it.
    check(unsafe { libc::pwritev64(file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32, offset) })
}

/// `preadv2` with `RWF_NOWAIT` into guest memory: what the host has in its page cache.
///
/// # Errors
/// What the system says: `EAGAIN` when it would have to wait, `EOPNOTSUPP` when the file system cannot tell.
pub fn read_at_once(file: BorrowedFd<'_>, slices: &Slices<'_>, offset: u64) -> io::Result<usize> {
    let iovecs = iovecs(slices);
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let (fd, count) = (file.as_raw_fd(), iovecs.len() as i32);
    // SAFETY: as for `read_at`.
    check(unsafe { libc::preadv64v2(fd, iovecs.as_ptr(), count, offset, libc::RWF_NOWAIT) })
}

/// `readv` into guest memory.
///
/// # Errors
/// What the system says.
pub fn read(file: BorrowedFd<'_>, slices: &Slices<'_>) -> io::Result<usize> {
    let iovecs = iovecs(slices);
    // SAFETY: as for `read_at`.
    check(unsafe { libc::readv(file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32) })
}

/// `writev` from guest memory.
///
/// # Errors
/// What the system says.
pub fn write(file: BorrowedFd<'_>, slices: &Slices<'_>) -> io::Result<usize> {
    let iovecs = iovecs(slices);
    // SAFETY: as for `write_at`.
    check(unsafe { libc::writev(file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32) })
}

/// `send` from guest memory to a socket, without blocking and without SIGPIPE.
///
/// # Errors
/// What the system says.
pub fn send(socket: BorrowedFd<'_>, slices: &Slices<'_>) -> io::Result<usize> {
    let mut iovecs = iovecs(slices);
    // SAFETY: all-zeroes is a valid msghdr without name, vectors and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    // SAFETY: as for `write_at`; the header lives until the call returns.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) })
}

/// `getrandom` into guest memory.
///
/// # Errors
/// What the system says.
pub fn random(slice: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the pointer is valid for `slice.len()` bytes of guest memory, as for `read_at`.
    check(unsafe { libc::getrandom(guard.as_ptr().cast(), slice.len(), 0) })
}

/// Gives the host the pages back that lie wholly in `slice`, and answers how many bytes they are. They read as zeroes
/// then, or where the mapping is private as the file behind it.
///
/// # Errors
/// What the system says.
pub fn discard(slice: &VolatileSlice<'_>) -> io::Result<usize> {
    // Of x86-64. Larger pages that the host may have there it splits.
    const PAGE: usize = 4096;
    let guard = slice.ptr_guard_mut();
    let skip = (guard.as_ptr() as usize).wrapping_neg() % PAGE;
    let bytes = slice.len().saturating_sub(skip) / PAGE * PAGE;
    if bytes == 0 {
        return Ok(0);
    }
    let advise = |advice| {
        // SAFETY: the range is within guest memory that the slice's lifetime keeps mapped, and stays mapped: only what is
        // in it changes, which is no different from the guest writing there, and no Rust reference to it exists.
        check(unsafe { libc::madvise(guard.as_ptr().wrapping_add(skip).cast(), bytes, advice) } as isize)
    };
    match advise(libc::MADV_REMOVE) {
        // It is not shared: this process's copies of pages are all that there is to give.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => {
            advise(libc::MADV_DONTNEED)
        }
        outcome => outcome,
    }
    .map(|_| bytes)
}

/// Has the host give all pages of `slice` now, as if each had been written what is in it (`MADV_POPULATE_WRITE`).
///
/// # Errors
/// What the system says: `EINVAL` before Linux 5.14.
pub fn populate(slice: &VolatileSlice<'_>) -> io::Result<()> {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range is within guest memory that the slice's lifetime keeps mapped, and its content stays as it is.
    let done = unsafe { libc::madvise(guard.as_ptr().cast(), slice.len(), libc::MADV_POPULATE_WRITE) };
    check(done as isize).map(drop)
}

/// `fallocate`.
///
/// # Errors
/// What the system says.
pub fn fallocate(file: BorrowedFd<'_>, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, length) } as isize).map(drop)
}
