//! Makes system calls in another process's name, as its own code would if someone had taken it over.

use std::io;
use std::mem::MaybeUninit;

/// What came of a system call.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Returned(i64),
    /// The process was killed by that signal.
    Killed(i32),
}

fn trace(request: libc::c_uint, pid: i32, data: *mut libc::c_void) {
    // SAFETY: each request's `data` is either no pointer or points to registers that outlive the call.
    let result = unsafe { libc::ptrace(request, pid, 0, data) };
    assert_eq!(result, 0, "ptrace request {request}: {}", io::Error::last_os_error());
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid, "waitpid: {}", io::Error::last_os_error());
    status
}

fn registers(pid: i32) -> libc::user_regs_struct {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
    trace(libc::PTRACE_GETREGS, pid, registers.as_mut_ptr().cast());
    // SAFETY: the request succeeded and filled it; and zeros would be valid, too.
    unsafe { registers.assume_init() }
}

/// Makes the child `pid`, which waits in a system call, do `call` instead.
pub fn inject(pid: i32, call: i64, arguments: [u64; 4]) -> Fate {
    trace(libc::PTRACE_SEIZE, pid, std::ptr::null_mut());
    trace(libc::PTRACE_INTERRUPT, pid, std::ptr::null_mut());
    wait(pid);
    let mut changed = registers(pid);
    // Back onto the instruction SYSCALL; without an original call the kernel does not restart it by itself.
    changed.rip -= 2;
    changed.orig_rax = u64::MAX;
    changed.rax = call as u64;
    [changed.rdi, changed.rsi, changed.rdx, changed.r10] = arguments;
    trace(libc::PTRACE_SETREGS, pid, (&raw mut changed).cast());
    // To the call's entry, then to its exit.
    for _ in 0..2 {
        trace(libc::PTRACE_SYSCALL, pid, std::ptr::null_mut());
        let mut status = wait(pid);
        while libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSYS {
            trace(libc::PTRACE_CONT, pid, libc::SIGSYS as *mut libc::c_void);
            status = wait(pid);
        }
        if libc::WIFSIGNALED(status) {
            return Fate::Killed(libc::WTERMSIG(status));
        }
        assert!(libc::WIFSTOPPED(status), "status {status:#x}");
    }
    Fate::Returned(registers(pid).rax as i64)
}
