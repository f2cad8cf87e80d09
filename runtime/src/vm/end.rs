//! How a VMM ended, for a person.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::libc;

/// The kernel's log; each read gives one record (Documentation/ABI/testing/dev-kmsg).
const KERNEL_LOG: &str = "/dev/kmsg";
/// A record is no longer, bytes.
const RECORD: usize = 8 << 10;
/// The most records that are looked at: the log may be written faster than it is read.
const RECORDS: usize = 100_000;
/// `AUDIT_SECCOMP` of linux/audit.h.
const SECCOMP: &str = "type=1326 ";

/// Why a VM ended that nobody has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The host's kernel killed it for want of memory.
    OutOfMemory,
    /// The agent did not answer for so many seconds.
    Silent(u64),
    /// A system call that is not its monitor's.
    Denied,
    /// Another signal.
    Signal(i32),
    /// The guest powered off.
    PoweredOff,
    /// The guest reset.
    Reset,
    /// The guest faulted for good.
    Faulted,
    /// The monitor gave up, with an exit code.
    Failed(i32),
    /// What nobody has seen.
    Unknown,
}

impl End {
    /// That of a process; `status`: as far as it is known.
    pub fn of(status: Option<ExitStatus>) -> End {
        match status.and_then(|status| status.signal()) {
            Some(libc::SIGSYS) => End::Denied,
            Some(signal) => End::Signal(signal),
            // What husk-vmm says with its exit code.
            None => match status.and_then(|status| status.code()) {
                Some(0) => End::PoweredOff,
                Some(3) => End::Reset,
                Some(4) => End::Faulted,
                Some(code) => End::Failed(code),
                None => End::Unknown,
            },
        }
    }

    /// For a person; `pid`: the process that has ended.
    pub fn describe(self, pid: i32) -> String {
        match self {
            End::OutOfMemory => {
                "the host's kernel killed the pod's VM: its cgroup, or the host, was out of memory".into()
            }
            End::Silent(seconds) => {
                format!("the guest's agent has not answered for {seconds} s, and the VM was ended")
            }
            End::Denied => {
                let call = denied_call(pid).map(|call| format!(" ({call})")).unwrap_or_default();
                format!(
                    "the pod's VM was ended by SIGSYS: its monitor made a system call that it may not make{call}; it \
                     may have been taken over by its guest"
                )
            }
            End::Signal(signal) => format!("the pod's VM was ended by signal {signal}"),
            End::PoweredOff => "the pod's guest powered off".into(),
            End::Reset => "the pod's guest reset: its kernel panicked, or it was rebooted from within".into(),
            End::Faulted => "the pod's guest faulted beyond what its processor can handle".into(),
            End::Failed(code) => format!("the pod's VMM failed with exit code {code}"),
            End::Unknown => "the pod's VM ended by itself".into(),
        }
    }

    /// For a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            End::OutOfMemory => "host_out_of_memory",
            End::Silent(_) => "agent_silent",
            End::Denied => "denied_system_call",
            End::Signal(_) => "signal",
            End::PoweredOff => "powered_off",
            End::Reset => "reset",
            End::Faulted => "faulted",
            End::Failed(_) => "monitor_failed",
            End::Unknown => "unknown",
        }
    }
}

/// Which call it was, if the kernel's log tells: it does not where an audit daemon gets such records instead.
fn denied_call(pid: i32) -> Option<String> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(KERNEL_LOG).ok()?;
    let mut record = vec![0; RECORD];
    let mut found = None;
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(bytes) => found = parse(&String::from_utf8_lossy(&record[..bytes]), pid).or(found),
            // Records that were overwritten meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    found
}

/// What a record tells of the process's denied call, if that is what it is about.
fn parse(record: &str, pid: i32) -> Option<String> {
    let fields = &record[record.find(SECCOMP)?..];
    let field = |name: &str| fields.split_whitespace().find_map(|field| field.strip_prefix(name));
    (field("pid=")? == pid.to_string()).then_some(())?;
    let call: u32 = field("syscall=")?.parse().ok()?;
    let thread = field("comm=").unwrap_or_default().trim_matches('"');
    let plain = !thread.is_empty() && thread.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some(format!("number {call}{}", if plain { format!(", thread {thread}") } else { String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_record_names_the_call() {
        let record = "5,812,12600339,-;audit: type=1326 audit(1700000000.123:42): auid=4294967295 uid=1879048192 \
            gid=1879048192 ses=4294967295 pid=345 comm=\"vcpu0\" exe=\"/usr/bin/husk-vmm\" sig=31 arch=c000003e \
            syscall=41 compat=0 ip=0x7f code=0x80000000\n";
        assert_eq!(parse(record, 345).unwrap(), "number 41, thread vcpu0");
        assert_eq!(parse(record, 34), None);
        assert_eq!(parse(&record.replace("1326", "1400"), 345), None);
        assert_eq!(parse(&record.replace("vcpu0", "a;b"), 345).unwrap(), "number 41");
        assert_eq!(parse("type=1326 pid=345 syscall=", 345), None);
    }

    #[test]
    fn an_end_is_told_by_its_signal_or_code() {
        let of = |raw: i32| End::of(Some(ExitStatus::from_raw(raw))).describe(i32::MAX);
        assert!(of(libc::SIGSYS).contains("SIGSYS"));
        assert!(of(libc::SIGKILL).contains("signal 9"));
        assert!(of(0).contains("powered off") && of(3 << 8).contains("panicked"));
        assert!(of(1 << 8).contains("exit code 1"));
        assert_eq!(End::of(None).describe(1), "the pod's VM ended by itself");
        assert_eq!(End::of(Some(ExitStatus::from_raw(libc::SIGSYS))).label(), "denied_system_call");
    }
}
