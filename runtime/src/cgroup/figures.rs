//! What a pod's cgroup has used: the VM with its guest, and what serves it.

use super::Cgroups;
use super::hierarchy::Hierarchy;
use super::path::CgroupPath;

/// CPU time of a cgroup, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total_nanos: u64,
    /// In user mode, and in the guest.
    pub user_nanos: u64,
    /// In the host's kernel.
    pub system_nanos: u64,
}

/// Memory of a cgroup, in bytes, and page faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged to it.
    pub usage: u64,
    /// Without what could be dropped at once.
    pub working_set: u64,
    /// What is no cache of files: the guest's memory, which is shared memory, and the processes' own.
    pub resident: u64,
    /// Page faults, those that needed a disk included.
    pub faults: u64,
    /// Those that needed a disk.
    pub major_faults: u64,
}

impl Cgroups {
    /// CPU time of a cgroup. None where nothing counts it.
    pub(super) fn cpu(&self, path: &CgroupPath) -> Option<Cpu> {
        self.first(|hierarchy| match hierarchy.controllers {
            None => cpu(&hierarchy.read(path, "cpu.stat").ok()?),
            Some(_) if hierarchy.has("cpuacct") => {
                let nanos = |file| hierarchy.read(path, file).ok()?.trim().parse().ok();
                Some(Cpu {
                    total_nanos: nanos("cpuacct.usage")?,
                    user_nanos: nanos("cpuacct.usage_user")?,
                    system_nanos: nanos("cpuacct.usage_sys")?,
                })
            }
            Some(_) => None,
        })
    }

    /// Memory of a cgroup. None where nothing counts it.
    pub(super) fn memory(&self, path: &CgroupPath) -> Option<Memory> {
        self.first(|hierarchy| match hierarchy.controllers {
            None => memory(
                &hierarchy.read(path, "memory.current").ok()?,
                &hierarchy.read(path, "memory.stat").ok()?,
                ["inactive_file", "anon", "shmem", "pgfault", "pgmajfault"],
            ),
            Some(_) if hierarchy.has("memory") => memory(
                &hierarchy.read(path, "memory.usage_in_bytes").ok()?,
                &hierarchy.read(path, "memory.stat").ok()?,
                ["total_inactive_file", "total_rss", "total_shmem", "total_pgfault", "total_pgmajfault"],
            ),
            Some(_) => None,
        })
    }

    /// The most memory that a cgroup may use, in bytes. None where nothing limits it.
    pub(super) fn memory_limit(&self, path: &CgroupPath) -> Option<u64> {
        self.first(|hierarchy| {
            let file = match hierarchy.controllers {
                None => "memory.max",
                Some(_) if hierarchy.has("memory") => "memory.limit_in_bytes",
                Some(_) => return None,
            };
            hierarchy.read(path, file).ok()?.trim().parse().ok()
        })
    }

    /// How many processes of a cgroup the kernel has killed for want of memory.
    pub(super) fn oom_kills(&self, path: &CgroupPath) -> u64 {
        let kills = self.first(|hierarchy| {
            let file = match hierarchy.controllers {
                None => "memory.events",
                Some(_) if hierarchy.has("memory") => "memory.oom_control",
                Some(_) => return None,
            };
            field(&hierarchy.read(path, file).ok()?, "oom_kill")
        });
        kills.unwrap_or(0)
    }

    fn first<T>(&self, read: impl Fn(&Hierarchy) -> Option<T>) -> Option<T> {
        self.hierarchies.iter().find_map(read)
    }
}

/// CPU time as version 2 tells it.
fn cpu(stat: &str) -> Option<Cpu> {
    let nanos = |name| field(stat, name)?.checked_mul(1000);
    Some(Cpu {
        total_nanos: nanos("usage_usec")?,
        user_nanos: nanos("user_usec")?,
        system_nanos: nanos("system_usec")?,
    })
}

fn memory(usage: &str, stat: &str, names: [&str; 5]) -> Option<Memory> {
    let usage = usage.trim().parse().ok()?;
    let [inactive_file, anonymous, shared, faults, major_faults] = names.map(|name| field(stat, name));
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file?),
        resident: anonymous?.saturating_add(shared?),
        faults: faults?,
        major_faults: major_faults?,
    })
}

/// The number behind a name, in a file of one of each a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let stat = "anon 5\nanon_thp 9\ninactive_file 30\nshmem 40\npgfault 7\npgmajfault 1\n";
        assert_eq!(field(stat, "anon"), Some(5));
        assert_eq!(field(stat, "file"), None);
        let names = ["inactive_file", "anon", "shmem", "pgfault", "pgmajfault"];
        let expected = Memory { usage: 100, working_set: 70, resident: 45, faults: 7, major_faults: 1 };
        assert_eq!(memory("100\n", stat, names), Some(expected));
        assert_eq!(memory("100\n", "anon 5\n", names), None);
        let stat = "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 0\n";
        assert_eq!(cpu(stat), Some(Cpu { total_nanos: 5000, user_nanos: 3000, system_nanos: 2000 }));
        assert_eq!(cpu("usage_usec 5\nuser_usec 3\n"), None);
    }
}
