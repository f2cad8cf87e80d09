//! The scheduler's server for starved tasks (`fair_server`, Linux 6.12's `kernel/sched/deadline.c`): it keeps a twentieth of
//! each CPU for all others when real-time tasks take it whole. It also wakes an idle CPU a second after whatever woke it
//! last, the CPU finds work that could have waited, and so an idle VM never comes to rest. It is off, hence, while no
//! container can have a real-time task.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::{Capability, PosixRlimitType, Process};

use crate::error::{Context, Result};
use crate::sandbox::cpus;

const DEBUGFS: &str = "/sys/kernel/debug";
/// A directory a CPU.
const SERVERS: &str = "/sys/kernel/debug/sched/fair_server";
/// Nanoseconds of each second, as the kernel sets them.
const SHARE: &str = "50000000";
const OFF: &str = "0";

/// Whether it stays for the rest of the guest's life. Held by whoever sets it.
static KEPT: Mutex<bool> = Mutex::new(false);

/// Switches it off on all CPUs that are online, unless it is kept. When others have come online, this is to be called
/// again.
pub fn rest() {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    set_or_warn(*kept);
}

/// Switches it on for good if a process like this one can become a real-time task.
pub fn keep_for(process: &Process) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if !*kept && can_be_real_time(process) {
        *kept = true;
        set_or_warn(true);
    }
}

/// Another kernel than husk's may not have it, or not let it be set: containers run there as well.
fn set_or_warn(on: bool) {
    if let Err(e) = set_all(if on { SHARE } else { OFF }) {
        tracing::warn!("the scheduler's server for starved tasks stays as it is: {e}");
    }
}

/// sched(7), "Privileges and resource limits".
fn can_be_real_time(process: &Process) -> bool {
    let capable = process.capabilities().as_ref().is_some_and(|sets| {
        let sets = [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()];
        sets.into_iter().flatten().any(|set| set.contains(&Capability::SysNice))
    });
    let mut limits = process.rlimits().iter().flatten();
    capable || limits.any(|limit| limit.typ() == PosixRlimitType::RlimitRtprio && limit.hard() > 0)
}

/// Containers do not see where it is set: they have a sysfs of their own, and the mount here is gone again.
fn set_all(share: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("debugfs"), DEBUGFS, Some("debugfs"), flags, None::<&str>)
        .context(|| format!("mounting debugfs on {DEBUGFS}"))?;
    let set = cpus::online().and_then(|online| set_below(Path::new(SERVERS), &online, share));
    umount2(DEBUGFS, MntFlags::MNT_DETACH).context(|| format!("unmounting {DEBUGFS}"))?;
    set
}

/// That of a CPU which was never online cannot be set.
fn set_below(servers: &Path, cpus: &[u32], share: &str) -> Result<()> {
    cpus.iter().try_for_each(|cpu| {
        let runtime = servers.join(format!("cpu{cpu}/runtime"));
        fs::write(&runtime, share).context(|| format!("writing {share} to {}", runtime.display()))
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxCapabilities, PosixRlimitBuilder};

    use super::*;

    #[test]
    fn who_can_be_real_time() {
        let mut process = Process::default();
        process.set_rlimits(None).set_capabilities(Some(LinuxCapabilities::default()));
        assert!(!can_be_real_time(&process));
        for (hard, can) in [(0_u64, false), (1, true)] {
            let limit =
                PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitRtprio).hard(hard).soft(0_u64);
            let limit = limit.build().unwrap();
            process.set_rlimits(Some(vec![limit]));
            assert_eq!(can_be_real_time(&process), can);
        }
        process.set_rlimits(None);
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some([Capability::SysNice].into()));
        process.set_capabilities(Some(sets));
        assert!(can_be_real_time(&process));
    }

    #[test]
    fn each_of_these_cpus_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = |cpu: u32| dir.path().join(format!("cpu{cpu}/runtime"));
        for cpu in 0..3 {
            fs::create_dir(dir.path().join(format!("cpu{cpu}"))).unwrap();
            fs::write(runtime(cpu), SHARE).unwrap();
        }
        set_below(dir.path(), &[0, 2], OFF).unwrap();
        assert_eq!([0, 1, 2].map(|cpu| fs::read_to_string(runtime(cpu)).unwrap()), [OFF, SHARE, OFF]);
        assert!(set_below(dir.path(), &[3], OFF).is_err());
    }
}
