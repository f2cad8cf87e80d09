//! What becomes of a VMM whose threads try more than they may.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Child;

use husk_jail::intruder::{Fate, inject};
use husk_vmm::control::client::ControlClient;
use husk_vmm::control::{Reply, Request, VmState};

use crate::Test;
use crate::machine::{self, wait_for};

pub const TESTS: &[Test] = &[
    ("a system call that is not on its thread's list ends the VMM", forbidden),
    ("a user's VMM gives up what takes no rights", of_a_user),
];

/// Nobody's number.
const USER: u32 = 1_879_100_000;

/// A VMM whose guest has only begun.
struct Begun {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Begun {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = machine::config(dir.path());
        crate::initramfs::write(&config.initramfs);
        Self::wait(machine::start(&config, dir.path()), dir)
    }

    fn wait(process: Child, dir: tempfile::TempDir) -> Self {
        // The first thread is the last to be held to its list, and the guest begins then.
        let status = format!("/proc/{}/status", process.id());
        wait_for("the last filter", || {
            fs::read_to_string(&status).unwrap().contains("\nSeccomp:\t2\n").then_some(())
        });
        Self { process, _dir: dir }
    }

    /// A thread of that name.
    fn thread(&self, name: &str) -> i32 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let mut named = tasks.flatten().filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let task = named.next().unwrap_or_else(|| panic!("no thread {name}"));
        task.file_name().to_str().unwrap().parse().unwrap()
    }
}

fn of_a_user() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = machine::config(dir.path());
    config.jail = None;
    crate::initramfs::write(&config.initramfs);
    chown(dir.path(), Some(USER), Some(USER)).unwrap();
    let kvm = fs::metadata("/dev/kvm").unwrap().gid();
    let process = machine::command(&config, dir.path()).uid(USER).gid(kvm).spawn().unwrap();
    let begun = Begun::wait(process, dir);
    let reply = ControlClient::connect(&config.control_socket).unwrap().request(&Request::State, &[]);
    assert_eq!(reply.unwrap(), Reply::State(VmState::Running));
    let status = fs::read_to_string(format!("/proc/{}/status", begun.process.id())).unwrap();
    let uid = [USER.to_string().as_str(); 4].join("\t");
    for line in [format!("Uid:\t{uid}"), "CapEff:\t0000000000000000".into(), "NoNewPrivs:\t1".into()] {
        assert!(status.contains(&line), "{line} is not in {status}");
    }
    let fate = inject(begun.thread("io"), libc::SYS_openat, [0; 6]).unwrap();
    assert_eq!(fate, Fate::Killed);
}

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn forbidden() {
    let started = Begun::start();
    let fate = inject(started.thread("husk-vmm"), libc::SYS_getpid, [0; 6]).unwrap();
    // Its number in its own namespace.
    assert_eq!(fate, Fate::Returned(1), "the test itself is broken");
    drop(started);

    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let to_all: &[(i64, [u64; 6])] = &[
        (libc::SYS_openat, [libc::AT_FDCWD as u64, 0, 0, 0, 0, 0]),
        (libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]),
        (libc::SYS_execve, [0; 6]),
        (libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        (libc::SYS_mmap, [0, 4096, code, private, u64::MAX, 0]),
    ];
    let memory_region = 0x4020_ae46;
    for (thread, others) in [
        ("husk-vmm", vec![(libc::SYS_accept4, [0; 6]), (libc::SYS_clone3, [0; 6])]),
        ("signals", vec![(libc::SYS_epoll_wait, [0; 6]), (libc::SYS_mprotect, [0, 4096, code, 0, 0, 0])]),
        ("vcpu0", vec![(libc::SYS_ioctl, [0, memory_region, 0, 0, 0, 0]), (libc::SYS_ptrace, [0; 6])]),
        ("vcpu2", vec![(libc::SYS_socketpair, [libc::AF_UNIX as u64, 1, 0, 0, 0, 0])]),
        (
            "io",
            vec![(libc::SYS_socketpair, [libc::AF_INET as u64, 1, 0, 0, 0, 0]), (libc::SYS_connect, [0; 6])],
        ),
        ("block", vec![(libc::SYS_sendmsg, [0; 6]), (libc::SYS_ioctl, [0, 0xae80, 0, 0, 0, 0])]),
        ("pool", vec![(libc::SYS_epoll_wait, [0; 6]), (libc::SYS_io_uring_setup, [0; 6])]),
        ("memory", vec![(libc::SYS_ioctl, [0, 0xae80, 0, 0, 0, 0]), (libc::SYS_unshare, [0; 6])]),
        // Signals to itself, but not to others and not any.
        ("control", vec![(libc::SYS_tgkill, [1, 1, 9, 0, 0, 0]), (libc::SYS_tgkill, [2, 2, 34, 0, 0, 0])]),
    ] {
        for (call, arguments) in to_all.iter().chain(&others) {
            let mut started = Begun::start();
            let fate = inject(started.thread(thread), *call, *arguments).unwrap();
            assert_eq!(fate, Fate::Killed, "thread {thread}, system call {call}");
            let status = started.process.wait().unwrap();
            assert_eq!(status.signal(), Some(libc::SIGSYS), "thread {thread}, system call {call}: {status}");
        }
    }
}
