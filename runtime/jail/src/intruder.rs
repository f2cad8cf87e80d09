//! For tests: system calls in the name of another process's thread, as its own code would make them if somebody had
//! taken it over. It takes root, or a child that may be traced.

use std::io;
use std::time::{Duration, Instant};

use crate::sys::trace::{self, Status};

/// How long a thread that was not killed at once may take to be.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of a system call.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was made: its result, or the negative number of its error.
    Returned(i64),
    /// The process was killed by SIGSYS.
    Killed,
}

/// Makes thread `tid`, which waits in a system call or computes, do `call` instead of what it does. Unless it is killed
/// it is left as it is then: not of much use.
///
/// # Errors
/// When it cannot be traced.
pub fn inject(tid: i32, call: i64, arguments: [u64; 6]) -> io::Result<Fate> {
    // Tracing ends with the thread that traces.
    std::thread::scope(|scope| scope.spawn(|| inject_here(tid, call, arguments)).join())
        .map_err(|_| io::Error::other("the tracing thread panicked"))?
}

fn inject_here(tid: i32, call: i64, arguments: [u64; 6]) -> io::Result<Fate> {
    trace::seize(tid)?;
    trace::interrupt(tid)?;
    stopped(tid)?;
    let mut registers = trace::registers(tid)?;
    // Back onto the instruction SYSCALL of a thread that waits in one; without an original call the kernel does not
    // restart it by itself.
    registers.rip -= 2;
    registers.orig_rax = u64::MAX;
    registers.rax = call as u64;
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    (registers.rdi, registers.rsi, registers.rdx) = (rdi, rsi, rdx);
    (registers.r10, registers.r8, registers.r9) = (r10, r8, r9);
    trace::set_registers(tid, &registers)?;
    trace::until_call(tid)?;
    if let Some(fate) = stopped(tid)? {
        return Ok(fate);
    }
    trace::until_call(tid)?;
    if let Some(fate) = stopped(tid)? {
        return Ok(fate);
    }
    let result = trace::registers(tid)?.rax as i64;
    // A deadly signal strikes now, if there is one.
    trace::go_on(tid, 0)?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match trace::status(tid, false)? {
            None => std::thread::sleep(Duration::from_millis(1)),
            Some(Status::Stopped(signal)) => trace::go_on(tid, signal)?,
            Some(Status::Killed(libc::SIGSYS)) => return Ok(Fate::Killed),
            Some(Status::Killed(_) | Status::Exited) => break,
        }
    }
    Ok(Fate::Returned(result))
}

/// Waits for the next stop, or for the end.
fn stopped(tid: i32) -> io::Result<Option<Fate>> {
    match trace::status(tid, true)? {
        Some(Status::Stopped(_)) => Ok(None),
        Some(Status::Killed(libc::SIGSYS)) => Ok(Some(Fate::Killed)),
        other => Err(io::Error::other(format!("thread {tid}: {other:?} instead of a stop"))),
    }
}
