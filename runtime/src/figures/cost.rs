//! What a pod costs its host.

use crate::cgroup::{self, Cpu, Memory};
use crate::vm::Usage;

/// CPU time and memory of all that serves a pod, the guest included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// CPU time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

impl Cost {
    /// As the pod's cgroup tells it. Where it has none, or nothing counts there, that of the VMM's process, which is
    /// most of it.
    pub fn new(cgroup: cgroup::Figures, vmm: &Usage) -> Cost {
        let cpu = cgroup.cpu.unwrap_or_else(|| Cpu {
            total_nanos: vmm.cpu_nanos(),
            user_nanos: vmm.cpu_user_nanos,
            system_nanos: vmm.cpu_system_nanos,
        });
        let memory = cgroup.memory.unwrap_or_else(|| Memory {
            usage: vmm.resident_bytes,
            working_set: vmm.resident_bytes,
            resident: vmm.resident_bytes,
            faults: vmm.minor_faults.saturating_add(vmm.major_faults),
            major_faults: vmm.major_faults,
        });
        Cost { cpu, memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_word_counts_and_the_processs_where_there_is_none() {
        let vmm = Usage {
            cpu_user_nanos: u64::MAX,
            cpu_system_nanos: 7,
            resident_bytes: 4096,
            minor_faults: u64::MAX,
            major_faults: 3,
        };
        let alone = Cost::new(cgroup::Figures::default(), &vmm);
        assert_eq!((alone.cpu.total_nanos, alone.cpu.system_nanos), (u64::MAX, 7));
        assert_eq!((alone.memory.usage, alone.memory.working_set, alone.memory.resident), (4096, 4096, 4096));
        assert_eq!((alone.memory.faults, alone.memory.major_faults), (u64::MAX, 3));

        let cpu = Cpu { total_nanos: 30, user_nanos: 20, system_nanos: 10 };
        let counted = Cost::new(cgroup::Figures { cpu: Some(cpu), memory: None }, &vmm);
        assert_eq!((counted.cpu, counted.memory), (cpu, alone.memory));
        let memory = Memory { usage: 9, working_set: 8, resident: 7, faults: 6, major_faults: 5 };
        let counted = Cost::new(cgroup::Figures { cpu: None, memory: Some(memory) }, &vmm);
        assert_eq!((counted.cpu, counted.memory), (alone.cpu, memory));
    }
}
