//! How long the host has kept a VM waiting.

use std::collections::HashMap;
use std::time::Duration;

/// For how long each thread of a process has been ready to run and had no CPU, by its number: the second field of
/// `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst), nanoseconds.
#[derive(Debug, Default)]
pub struct Waits(HashMap<String, u64>);

impl Waits {
    /// Until now; nothing of a process that is gone, or where the kernel does not count.
    pub fn of(pid: i32) -> Waits {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let waited = threads.filter_map(|thread| {
            let counted = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let waited = counted.split_whitespace().nth(1)?.parse().ok()?;
            Some((thread.file_name().into_string().ok()?, waited))
        });
        Waits(waited.collect())
    }

    /// Of a process with one thread.
    #[cfg(test)]
    pub fn of_one(waited: Duration) -> Waits {
        Waits([(String::new(), waited.as_nanos() as u64)].into())
    }

    /// How much longer the thread that has waited longest since `before` has waited now.
    pub fn since(&self, before: &Waits) -> Duration {
        let longer = self
            .0
            .iter()
            .map(|(thread, waited)| waited.saturating_sub(*before.0.get(thread).unwrap_or(waited)));
        Duration::from_nanos(longer.max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(threads: &[(&str, u64)]) -> Waits {
        Waits(threads.iter().map(|(thread, waited)| ((*thread).to_owned(), *waited)).collect())
    }

    #[test]
    fn the_longest_wait_counts() {
        let before = waits(&[("1", 100), ("2", 50), ("3", 7)]);
        let after = waits(&[("1", 110), ("2", 90), ("4", 1000)]);
        assert_eq!(after.since(&before), Duration::from_nanos(40));
        assert_eq!(before.since(&after), Duration::ZERO);
        assert_eq!(after.since(&Waits::default()), Duration::ZERO);
    }

    #[test]
    fn waits_of_this_process_are_read() {
        let own = Waits::of(std::process::id() as i32);
        assert!(!own.0.is_empty());
        assert!(Waits::of(i32::MAX).0.is_empty());
    }
}
