//! What `husk-convert` may do, seen from outside, and what becomes of it when it tries more.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use husk_images::convert::Limits;
use husk_images::worker::{FIRST_FD, Job, Task};

use husk_jail::intruder::{Fate, inject};
use husk_jail::namespaces::start_apart;

const WORKER_ID: u32 = 64_997;

/// A worker that waits for its layer, with all that the store gives one, and more.
struct Waiting(Child);

impl Waiting {
    fn start() -> Self {
        let job = Job { task: Task::Layer, limits: Limits::default(), run_as: WORKER_ID };
        let file = |number| FdMapping {
            parent_fd: OwnedFd::from(tempfile::tempfile().unwrap()),
            child_fd: FIRST_FD + number,
        };
        // Two belong to the job; the third and this process's own directory do not.
        let extra = FdMapping { parent_fd: File::open("/").unwrap().into(), child_fd: 77 };
        let mut command = Command::new(env!("CARGO_BIN_EXE_husk-convert"));
        command
            .arg(serde_json::to_string(&job).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .fd_mappings(vec![file(0), file(1), file(2), extra])
            .unwrap();
        let child = start_apart(|| command.spawn()).unwrap();
        let waiting = Self(child);
        let begun = Instant::now();
        while !(waiting.status("Seccomp") == "2" && waiting.status("State").starts_with('S')) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the worker does not come up");
            std::thread::sleep(Duration::from_millis(1));
        }
        waiting
    }

    /// What becomes of it when it makes that system call.
    fn call(self, number: i64, arguments: [u64; 4]) -> Fate {
        let [first, second, third, fourth] = arguments;
        inject(self.0.id() as i32, number, [first, second, third, fourth, 0, 0]).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.id()))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn status(&self, field: &str) -> String {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_worker_has_given_up_everything_before_it_reads() {
    assert!(rustix::process::geteuid().is_root(), "only root's rights can be given up");
    let worker = Waiting::start();
    let id = [WORKER_ID.to_string().as_str(); 4].join("\t");
    assert_eq!(
        (worker.status("Uid"), worker.status("Gid"), worker.status("Groups")),
        (id.clone(), id, "".into())
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(worker.status(set), "0000000000000000", "{set}");
    }
    assert_eq!((worker.status("NoNewPrivs"), worker.status("Threads")), ("1".into(), "1".into()));
    let mut open: Vec<i32> = fs::read_dir(format!("/proc/{}/fd", worker.0.id()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    open.sort_unstable();
    assert_eq!(open, [0, 1, 2, 3, 4]);
    assert_eq!(fs::read_dir(worker.path("root")).unwrap().count(), 0);
    assert_eq!(worker.read("mountinfo").lines().count(), 1);
    assert!(worker.status("NSpid").ends_with("\t1"), "{}", worker.status("NSpid"));
    for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let [its, ours] =
            [worker.path("ns"), "/proc/self/ns".into()].map(|dir| fs::read_link(dir.join(kind)));
        assert_ne!(its.unwrap(), ours.unwrap(), "{kind}");
    }
    let limits = worker.read("limits");
    assert!(
        limits.lines().any(|line| line.starts_with("Max cpu time              1800                 1801"))
    );
    for (name, value) in [
        ("Max address space", 2_u64 << 30),
        ("Max locked memory", 0),
        ("Max core file size", 0),
        ("Max processes", 0),
        ("Max file size", (64 << 30) + 4096 * 1_000_000),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let values: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(values, [value.to_string(), value.to_string()], "{name}");
    }
}

#[test]
fn a_worker_that_was_taken_over_can_only_die() {
    // Its number in its own namespace.
    let fate = Waiting::start().call(libc::SYS_getpid, [0; 4]);
    assert_eq!(fate, Fate::Returned(1), "the test itself is broken");

    let exec = libc::PROT_READ as u64 | libc::PROT_EXEC as u64;
    let private = libc::MAP_PRIVATE as u64 | libc::MAP_ANONYMOUS as u64;
    let me = u64::from(std::process::id());
    let kill = libc::SIGKILL as u64;
    for (call, arguments) in [
        (libc::SYS_openat, [libc::AT_FDCWD as u64, 0, 0, 0]),
        (libc::SYS_open, [0; 4]),
        (libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0]),
        (libc::SYS_connect, [0; 4]),
        (libc::SYS_execve, [0; 4]),
        (libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0]),
        (libc::SYS_clone3, [0; 4]),
        (libc::SYS_fork, [0; 4]),
        (libc::SYS_kill, [me, 0, 0, 0]),
        (libc::SYS_tgkill, [me, me, kill, 0]),
        (libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), me, 0, 0]),
        (libc::SYS_process_vm_readv, [me, 0, 0, 0]),
        (libc::SYS_mmap, [0, 4096, exec, private]),
        (libc::SYS_mprotect, [0, 4096, exec, 0]),
        (libc::SYS_ioctl, [0; 4]),
        (libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0]),
        (libc::SYS_prlimit64, [0; 4]),
        (libc::SYS_unlinkat, [0; 4]),
        (libc::SYS_mount, [0; 4]),
        (libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0]),
        (libc::SYS_io_uring_setup, [0; 4]),
        (libc::SYS_bpf, [0; 4]),
        (libc::SYS_memfd_create, [0; 4]),
        (libc::SYS_dup, [0; 4]),
        // The x32 interface's read(2).
        (0x4000_0000, [0; 4]),
    ] {
        let fate = Waiting::start().call(call, arguments);
        assert_eq!(fate, Fate::Killed, "system call {call:#x}");
    }
}
