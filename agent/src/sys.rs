//! The system calls that have no safe wrapper. All `unsafe` of the crate is here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::ForkResult;
use tokio::io::unix::AsyncFd;

/// The descriptor on which a helper process finds its report pipe.
pub const REPORT_FD: RawFd = 3;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Has the thread run when no other wants to (the nice value 19): of use before long work that nobody waits for.
pub fn give_way() {
    // SAFETY: setpriority takes three numbers. Zero is the calling thread, which may always become nicer.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Hands a descriptor to tokio's event loop.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, gives the same descriptor each time, and is dropped after its registration.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Credits `bytes` to the kernel's entropy pool, all of their bits (random(4), RNDADDENTROPY).
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    let mut info: Vec<i32> = vec![0; 2 + bytes.len().div_ceil(4)];
    let bits = bytes.len().checked_mul(8).and_then(|bits| i32::try_from(bits).ok());
    info[0] = bits.ok_or(io::ErrorKind::InvalidInput)?;
    info[1] = bits.unwrap_or_default() / 8;
    for (word, chunk) in info[2..].iter_mut().zip(bytes.chunks(4)) {
        let mut four = [0; 4];
        four[..chunk.len()].copy_from_slice(chunk);
        *word = i32::from_ne_bytes(four);
    }
    // SAFETY: `info` is a `struct rand_pool_info` (two ints, then buf_size bytes, which the vector holds,
    // rounded up); the kernel only reads it.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, info.as_ptr()) }.into()).map(drop)
}

/// Has the kernel's generator go on from its pool at once: what a clone was saved with is forgotten (random(4),
/// RNDRESEEDCRNG).
pub fn reseed_random(random: BorrowedFd<'_>) -> io::Result<()> {
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    // SAFETY: RNDRESEEDCRNG takes nothing.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) }.into()).map(drop)
}

/// Sets a terminal's size (TIOCSWINSZ).
pub fn set_window_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }.into()).map(drop)
}

/// Has the kernel read a disk's partition table anew (BLKRRPART).
pub fn rescan_partitions(disk: BorrowedFd<'_>) -> io::Result<()> {
    const BLKRRPART: libc::c_ulong = 0x125f;
    // SAFETY: BLKRRPART takes nothing.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKRRPART) }.into()).map(drop)
}

/// Says whether a disk may be written to (BLKROSET): a read-only file system does not even try then.
pub fn set_disk_read_only(disk: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    const BLKROSET: libc::c_ulong = 0x125d;
    let value = libc::c_int::from(read_only);
    // SAFETY: BLKROSET reads one int, which outlives the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKROSET, &value) }.into()).map(drop)
}

/// Has the kernel write back and drop what it has cached of a disk (BLKFLSBUF).
pub fn forget_cached(disk: BorrowedFd<'_>) -> io::Result<()> {
    const BLKFLSBUF: libc::c_ulong = 0x1261;
    // SAFETY: BLKFLSBUF takes nothing.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKFLSBUF) }.into()).map(drop)
}

/// `struct blkpg_ioctl_arg` (linux/blkpg.h).
#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *const BlkpgPartition,
}

/// `struct blkpg_partition` (linux/blkpg.h).
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [[u8; 64]; 2],
}

/// Has the kernel forget a partition of a disk (BLKPG); what is on it stays.
pub fn forget_partition(disk: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    const BLKPG: libc::c_ulong = 0x1269;
    const BLKPG_DEL_PARTITION: libc::c_int = 2;
    let number = libc::c_int::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    let partition = BlkpgPartition { start: 0, length: 0, number, names: [[0; 64]; 2] };
    let argument = BlkpgArgument {
        operation: BLKPG_DEL_PARTITION,
        flags: 0,
        length: size_of::<BlkpgPartition>() as libc::c_int,
        partition: &raw const partition,
    };
    // SAFETY: BLKPG reads the argument and the partition it points to, both of which outlive the call.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const argument) }.into()).map(drop)
}

/// Opens the other side of the terminal `master` (TIOCGPTPEER), whatever mount its name is in.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes an integer.
    let fd = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Bytes that can be read at once (FIONREAD).
pub fn readable_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut count) }.into())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes `terminal` the controlling terminal of the calling session leader (TIOCSCTTY).
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Gives SIGPIPE its default action back, which Rust's runtime changes and execve(2) would hand on.
pub fn default_sigpipe() -> io::Result<()> {
    // SAFETY: no handler is installed, only the default action.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Sends a signal by number (real-time signals too); `signal` 0 only looks whether the process is there.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two integers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Reaps one child that has ended, if there is one: its pid and exit code, 128 + n for signal n. (nix's
/// waitpid has no name for real-time signals and would lose such a child.)
pub fn wait_any() -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid(2) writes one int, which outlives the call.
        match check(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }.into()) {
            Ok(0) => return Ok(None),
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some((pid as i32, 128 + libc::WTERMSIG(status))));
            }
            Ok(pid) => return Ok(Some((pid as i32, libc::WEXITSTATUS(status)))),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A handle of a process that stays its own when the pid is used again.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD (linux/bpf.h); what is left out is zero.
#[repr(C)]
struct BpfProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
}

/// Loads a program that decides on the use of devices (BPF_PROG_TYPE_CGROUP_DEVICE).
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let attributes = BpfProgram {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: bpf(2) reads the attributes, of the size given, and the instructions and the license they point
    // to, all of which outlive the call; the kernel verifies the program.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<BpfProgram>())
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Has the kernel ask the program for every process of the cgroup and those below it.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes: [u32; 4] =
        [cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    // SAFETY: bpf(2) reads the attributes, of the size given, which outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of_val(&attributes))
    })
    .map(drop)
}

/// Marks every descriptor from 3 on close-on-exec.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_int::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes all but the standard streams, and does nothing for ever.
pub fn close_and_wait() -> ! {
    // SAFETY: whoever owns a descriptor never runs again.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_int::MAX, 0) };
    loop {
        nix::unistd::pause();
    }
}

/// Has an interface use `wanted` pairs of queues, or as many as it has; answers how many these are (linux/ethtool.h,
/// `ETHTOOL_GCHANNELS` and `ETHTOOL_SCHANNELS`). Any socket will do.
pub fn set_channels(socket: BorrowedFd<'_>, interface: &str, wanted: u32) -> io::Result<u32> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const GET: u32 = 0x3c;
    const SET: u32 = 0x3d;
    /// `struct ethtool_channels`; each of the two is of rx, tx, other and combined.
    #[repr(C)]
    struct Channels {
        command: u32,
        most: [u32; 4],
        now: [u32; 4],
    }
    const COMBINED: usize = 3;

    let mut ifr_name = [0; libc::IFNAMSIZ];
    if interface.len() >= ifr_name.len() || !interface.is_ascii() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut channels = Channels { command: GET, most: [0; 4], now: [0; 4] };
    let call = |channels: &mut Channels| {
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut *channels).cast() };
        let request = libc::ifreq { ifr_name, ifr_ifru };
        // SAFETY: of the request the kernel reads the name and the pointer, and by that it reads and writes one
        // `ethtool_channels`, which lives until the call returns.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &request) }.into())
    };
    call(&mut channels)?;
    let wanted = wanted.clamp(1, channels.most[COMBINED].max(1));
    if channels.now[COMBINED] != wanted {
        channels.command = SET;
        channels.now[COMBINED] = wanted;
        call(&mut channels)?;
    }
    Ok(wanted)
}

/// Has the kernel reap this process's children.
pub fn ignore_children() -> io::Result<()> {
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    Ok(())
}

/// Forks. Only for the single-threaded helper processes.
pub fn fork() -> io::Result<ForkResult> {
    // SAFETY: the helpers never start a thread, so the child may do whatever the parent may.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Lets the child find `fd` as [`REPORT_FD`], open across its exec.
pub fn pass_report_fd(command: &mut Command, fd: OwnedFd) {
    // SAFETY: between fork and exec the closure calls dup2 or fcntl alone, both async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let raw = fd.as_fd().as_raw_fd();
            let result = if raw == REPORT_FD {
                libc::fcntl(raw, libc::F_SETFD, 0)
            } else {
                libc::dup2(raw, REPORT_FD)
            };
            check(result.into()).map(drop)
        });
    }
}

/// Takes the report descriptor that [`pass_report_fd`] handed down. To be called once, at the start of a
/// helper.
pub fn take_report_fd() -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_SETFD takes integers; it fails if the descriptor is not open.
    check(unsafe { libc::fcntl(REPORT_FD, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open (checked), and nothing else in a fresh helper owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(REPORT_FD) })
}

/// Receives one message with one descriptor on a unix socket (SCM_RIGHTS).
pub fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut data = [0; 64];
    let mut iov = [io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just installed these descriptors for this process.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    received
        .pop()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor came with the message"))
}
