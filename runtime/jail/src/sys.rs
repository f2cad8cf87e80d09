//! The system calls that have no safe wrapper.

use std::io;
use std::os::fd::RawFd;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// unshare(2) of namespaces.
pub fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    let namespaces = namespaces.difference(UnshareFlags::FILES);
    // SAFETY: only with CLONE_FILES can threads come to see different descriptors, and that is taken out.
    unsafe { unshare_unsafe(namespaces) }.map_err(io::Error::from)
}

/// Closes the descriptors from `first` to `last`, both included. To be called before anything in the process has
/// opened a descriptor there.
pub fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: as the caller has it, nobody in this process owns a descriptor of the range.
    let done = unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
pub mod tests {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    /// Forks; the child does `work` and ends. Answers the signal that ended it, 0 for none.
    pub fn in_child(work: impl FnOnce()) -> i32 {
        // SAFETY: the child has a copy of this thread alone; it makes system calls and ends without running anything
        // of this process's end.
        match unsafe { libc::fork() } {
            0 => {
                work();
                // SAFETY: takes a number and does not return.
                unsafe { libc::_exit(0) }
            }
            child => {
                assert!(child > 0, "fork: {}", std::io::Error::last_os_error());
                let mut status = 0;
                // SAFETY: `status` is a valid place for the answer.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
            }
        }
    }

    /// Maps and unmaps a page.
    pub fn map(protection: ProtFlags) {
        // SAFETY: a new page at an address of the kernel's choice, which nothing uses before it is unmapped.
        unsafe {
            let page = mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE).unwrap();
            munmap(page, 4096).unwrap();
        }
    }
}

#[cfg(feature = "intruder")]
pub mod trace {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;

    /// What a thread that is traced has come to.
    #[derive(Debug)]
    pub enum Status {
        /// It is stopped; the signal that it is to get, 0 for none.
        Stopped(i32),
        /// Its process was killed by a signal.
        Killed(i32),
        /// It has ended.
        Exited,
    }

    fn request(request: libc::c_uint, tid: i32, data: *mut libc::c_void) -> io::Result<()> {
        // SAFETY: each request's `data` is a number, or points to registers that outlive the call.
        let done = unsafe { libc::ptrace(request, tid, ptr::null_mut::<libc::c_void>(), data) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub fn seize(tid: i32) -> io::Result<()> {
        request(libc::PTRACE_SEIZE, tid, libc::PTRACE_O_TRACESYSGOOD as usize as *mut _)
    }

    pub fn interrupt(tid: i32) -> io::Result<()> {
        request(libc::PTRACE_INTERRUPT, tid, ptr::null_mut())
    }

    /// Lets it go on to where a system call begins or ends.
    pub fn until_call(tid: i32) -> io::Result<()> {
        request(libc::PTRACE_SYSCALL, tid, ptr::null_mut())
    }

    pub fn go_on(tid: i32, signal: i32) -> io::Result<()> {
        request(libc::PTRACE_CONT, tid, signal as usize as *mut _)
    }

    pub fn registers(tid: i32) -> io::Result<libc::user_regs_struct> {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        request(libc::PTRACE_GETREGS, tid, registers.as_mut_ptr().cast())?;
        // SAFETY: the request succeeded and filled it; and zeroes would be valid, too.
        Ok(unsafe { registers.assume_init() })
    }

    pub fn set_registers(tid: i32, registers: &libc::user_regs_struct) -> io::Result<()> {
        let mut copy = *registers;
        request(libc::PTRACE_SETREGS, tid, (&raw mut copy).cast())
    }

    /// A change of the thread's, if `wait` is false only one that there is. Its end is looked at and left to whose child
    /// it is.
    pub fn status(tid: i32, wait: bool) -> io::Result<Option<Status>> {
        // SAFETY: zeroes are a value of it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let changes = libc::WEXITED | libc::WSTOPPED | libc::__WALL;
        let look = changes | libc::WNOWAIT | if wait { 0 } else { libc::WNOHANG };
        // SAFETY: `info` is a valid place for the answer.
        if unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, look) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: waitid(2) has filled these fields, or left them zero.
        let (changed, status) = unsafe { (info.si_pid() != 0, info.si_status()) };
        Ok(match info.si_code {
            _ if !changed => None,
            libc::CLD_KILLED | libc::CLD_DUMPED => Some(Status::Killed(status)),
            libc::CLD_EXITED => Some(Status::Exited),
            _ => {
                // Taken, so that the next change is another.
                let take = libc::WSTOPPED | libc::__WALL;
                // SAFETY: as above.
                unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, take) };
                // PTRACE_EVENT_STOP is above the signal's byte; a call's stop has bit 7 (ptrace(2)).
                let signal = if status > 0x7f { 0 } else { status };
                Some(Status::Stopped(if signal == libc::SIGTRAP { 0 } else { signal }))
            }
        })
    }
}
