//! What the guest reads by `cpuid`: what KVM supports, with this VM's topology.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// The entries that all vCPUs share.
///
/// # Errors
/// What KVM says.
pub fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in cpuid.as_mut_slice().iter_mut().filter(|entry| entry.function == 1) {
        const TSC_DEADLINE: u32 = 1 << 24;
        const HYPERVISOR: u32 = 1 << 31;
        entry.ecx |= HYPERVISOR;
        // KVM does not report it among the supported bits: it depends on the in-kernel local APIC.
        entry.ecx = if deadline_timer { entry.ecx | TSC_DEADLINE } else { entry.ecx & !TSC_DEADLINE };
    }
    Ok(cpuid)
}

/// The entries of vCPU `id` of `count`: one package, `count` cores of one thread.
///
/// # Errors
/// When there are more entries than KVM takes.
pub fn for_vcpu(supported: &CpuId, id: u8, count: u8) -> Result<CpuId, kvm_ioctls::Error> {
    let entries: Vec<_> = supported
        .as_slice()
        .iter()
        // Intel's v2 topology would have to agree with leaf 0xb; without it the guest uses that.
        .filter(|entry| entry.function != 0x1f)
        .map(|entry| adapt(*entry, id, count))
        .collect();
    CpuId::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
}

/// Bits of an APIC id that number the cores.
fn core_bits(count: u8) -> u32 {
    u32::from(count.max(1)).next_power_of_two().trailing_zeros()
}

fn adapt(mut entry: kvm_cpuid_entry2, id: u8, count: u8) -> kvm_cpuid_entry2 {
    let (apic_id, cores) = (u32::from(id), u32::from(count.max(1)));
    match entry.function {
        1 => {
            const HYPER_THREADING: u32 = 1 << 28;
            entry.ebx = (entry.ebx & 0xffff) | cores << 16 | apic_id << 24;
            entry.edx = if cores > 1 { entry.edx | HYPER_THREADING } else { entry.edx & !HYPER_THREADING };
        }
        // Caches (Intel): bits 31..26 cores of the package, 25..14 logical CPUs that share the cache.
        4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { cores - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (cores - 1) << 26;
        }
        // Extended topology: level 0 is the thread, level 1 the core.
        0xb => {
            let (shift, number, kind) = match entry.index {
                0 => (0, 1, 1),
                1 => (core_bits(count), cores, 2),
                _ => (0, 0, 0),
            };
            entry.eax = shift;
            entry.ebx = number;
            entry.ecx = (entry.index & 0xff) | kind << 8;
            entry.edx = apic_id;
        }
        // AMD: cores of the package, and the bits of the APIC id for them.
        0x8000_0008 => entry.ecx = (entry.ecx & !0xf0ff) | (cores - 1) | core_bits(count) << 12,
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { cores - 1 } else { 0 };
            entry.eax = (entry.eax & !(0xfff << 14)) | sharing << 14;
        }
        // AMD: extended APIC id, core id with one thread a core, one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (apic_id, apic_id, 0),
        _ => {}
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    #[test]
    fn leaf_1_has_the_apic_id_and_the_number_of_cpus() {
        let adapted = adapt(entry(1, 0), 3, 4);
        assert_eq!((adapted.ebx, adapted.edx), (3 << 24 | 4 << 16, 1 << 28));
        assert_eq!(adapt(entry(1, 0), 0, 1).edx, 0);
    }

    #[test]
    fn leaf_b_covers_counts_that_are_no_power_of_two() {
        let core = adapt(entry(0xb, 1), 5, 6);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 1 | 2 << 8, 5));
        let thread = adapt(entry(0xb, 0), 5, 6);
        assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 1 << 8, 5));
    }

    #[test]
    fn the_v2_topology_leaf_is_dropped() {
        let supported = CpuId::from_entries(&[entry(1, 0), entry(0x1f, 0), entry(0x4000_0001, 0)]).unwrap();
        let functions: Vec<u32> =
            for_vcpu(&supported, 0, 1).unwrap().as_slice().iter().map(|entry| entry.function).collect();
        assert_eq!(functions, [1, 0x4000_0001]);
    }
}
