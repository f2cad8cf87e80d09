//! Makes system calls in another process's name, as its own code would if someone had taken it over.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// What came of a system call.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Returned(i64),
    /// The process was killed by SIGSYS.
    Killed,
}

fn trace(request: libc::c_uint, pid: i32, data: *mut libc::c_void) {
    // SAFETY: each request's `data` is either no pointer or points to registers that outlive the call.
    let result = unsafe { libc::ptrace(request, pid, 0, data) };
    assert_eq!(result, 0, "ptrace request {request}: {}", io::Error::last_os_error());
}

/// The status of `pid` if it changed.
fn wait(pid: i32, flags: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let waited = unsafe { libc::waitpid(pid, &mut status, flags) };
    assert!(waited == pid || (waited == 0 && flags != 0), "waitpid: {}", io::Error::last_os_error());
    (waited == pid).then_some(status)
}

/// Waits for the next stop of `pid`.
fn stop(pid: i32) {
    let status = wait(pid, 0);
    assert!(status.is_some_and(|status| libc::WIFSTOPPED(status)), "status {status:x?} instead of a stop");
}

fn registers(pid: i32) -> libc::user_regs_struct {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
    trace(libc::PTRACE_GETREGS, pid, registers.as_mut_ptr().cast());
    // SAFETY: the request succeeded and filled it; and zeros would be valid, too.
    unsafe { registers.assume_init() }
}

/// Makes the child `pid`, which waits in a system call, do `call` instead, and waits for its end.
pub fn inject(pid: i32, call: i64, arguments: [u64; 4]) -> Fate {
    trace(libc::PTRACE_SEIZE, pid, std::ptr::null_mut());
    trace(libc::PTRACE_INTERRUPT, pid, std::ptr::null_mut());
    stop(pid);
    let mut changed = registers(pid);
    // Back onto the instruction SYSCALL; without an original call the kernel does not restart it by itself.
    changed.rip -= 2;
    changed.orig_rax = u64::MAX;
    changed.rax = call as u64;
    [changed.rdi, changed.rsi, changed.rdx, changed.r10] = arguments;
    trace(libc::PTRACE_SETREGS, pid, (&raw mut changed).cast());
    trace(libc::PTRACE_SYSCALL, pid, std::ptr::null_mut());
    stop(pid);
    trace(libc::PTRACE_SYSCALL, pid, std::ptr::null_mut());
    stop(pid);
    let result = registers(pid).rax as i64;
    // A deadly signal strikes now, if there is one. Without it the process goes on as well as it can.
    trace(libc::PTRACE_CONT, pid, std::ptr::null_mut());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        match wait(pid, libc::WNOHANG) {
            None => std::thread::sleep(Duration::from_millis(1)),
            Some(status) if libc::WIFSTOPPED(status) => {
                trace(libc::PTRACE_CONT, pid, libc::WSTOPSIG(status) as *mut libc::c_void);
            }
            Some(status) if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS => {
                return Fate::Killed;
            }
            Some(_) => return Fate::Returned(result),
        }
    }
    // SAFETY: takes numbers only; the process is this one's child, not yet waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid, 0);
    Fate::Returned(result)
}
