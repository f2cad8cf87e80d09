//! How large a pod's VM is.

use husk_proto::cri;

use super::HOST_MIB;
use crate::config::VmDefaults;
use crate::error::{Error, Result};
use crate::store::SandboxRecord;

/// The most vCPUs of a VM, whatever its pod asks for.
const MAX_VCPUS: u64 = 32;

/// A VM's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// vCPUs.
    pub vcpus: u8,
    /// Memory, MiB.
    pub memory_mib: u32,
}

/// What a pod's limits come to; None: it has no such limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    vcpus: Option<u8>,
    memory_mib: Option<u32>,
}

impl Size {
    /// The pod's own limits, else the defaults.
    pub fn of(config: &cri::PodSandboxConfig, defaults: &VmDefaults) -> Size {
        let asked = asked(config, defaults);
        Size {
            vcpus: asked.vcpus.unwrap_or(defaults.vcpus),
            memory_mib: asked.memory_mib.unwrap_or(defaults.memory_mib),
        }
    }

    /// What a pod's VM was made with.
    pub fn given(record: &SandboxRecord, defaults: &VmDefaults) -> Size {
        let by_limits = Size::of(record.config.as_ref().unwrap_or(&Default::default()), defaults);
        Size {
            vcpus: u8::try_from(record.vcpus).ok().filter(|vcpus| *vcpus > 0).unwrap_or(by_limits.vcpus),
            memory_mib: if record.memory_mib > 0 { record.memory_mib } else { by_limits.memory_mib },
        }
    }

    /// Whether limits fit a VM of this size; what is not limited does.
    ///
    /// # Errors
    /// [`Error::Exhausted`] with both values.
    pub fn check(&self, config: &cri::PodSandboxConfig, defaults: &VmDefaults) -> Result<()> {
        let asked = asked(config, defaults);
        let mut beyond = Vec::new();
        if let Some(vcpus) = asked.vcpus.filter(|vcpus| *vcpus > self.vcpus) {
            beyond.push(format!("{vcpus} vCPUs, but its VM was made with {}", self.vcpus));
        }
        if let Some(memory_mib) = asked.memory_mib.filter(|memory_mib| *memory_mib > self.memory_mib) {
            beyond.push(format!(
                "{memory_mib} MiB of memory with its overhead, but its VM was made with {} MiB",
                self.memory_mib
            ));
        }
        if beyond.is_empty() {
            return Ok(());
        }
        Err(Error::Exhausted(format!(
            "the pod's new limits need {}; a VM cannot grow yet, so make the pod anew with these limits",
            beyond.join(", and ")
        )))
    }
}

/// What the guest's kernel and agent need comes on top of the memory: as the RuntimeClass says (`overhead`) without
/// the host's share of it, else as configured. With an overhead, guest and host's share together are what kubelet
/// limits the pod to.
fn asked(config: &cri::PodSandboxConfig, defaults: &VmDefaults) -> Asked {
    let linux = config.linux.as_ref();
    let resources = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let overhead = linux.and_then(|linux| linux.overhead.as_ref()).map_or(0, |o| o.memory_limit_in_bytes);
    let mib = |bytes: i64| u32::try_from((bytes.max(0) as u64).div_ceil(1 << 20)).unwrap_or(u32::MAX / 2);
    let overhead =
        if overhead > 0 { mib(overhead).saturating_sub(HOST_MIB) } else { defaults.memory_overhead_mib };
    Asked {
        vcpus: (resources.cpu_quota > 0 && resources.cpu_period > 0).then(|| {
            let vcpus = (resources.cpu_quota as u64).div_ceil(resources.cpu_period as u64);
            vcpus.clamp(1, MAX_VCPUS) as u8
        }),
        memory_mib: Some(mib(resources.memory_limit_in_bytes))
            .filter(|asked| *asked > 0)
            .map(|asked| asked.saturating_add(overhead).clamp(64, u32::MAX / 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: i64 = HOST_MIB as i64;

    fn limited(cpu_quota: i64, memory_mib: i64, overhead_mib: i64) -> cri::PodSandboxConfig {
        let memory = |mib: i64| cri::LinuxContainerResources {
            memory_limit_in_bytes: mib << 20,
            ..Default::default()
        };
        cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: Some(cri::LinuxContainerResources {
                    cpu_quota,
                    cpu_period: 100_000,
                    ..memory(memory_mib)
                }),
                overhead: (overhead_mib > 0).then(|| memory(overhead_mib)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_vm_is_as_large_as_the_pods_limits() {
        let defaults = VmDefaults::default();
        let default = Size { vcpus: defaults.vcpus, memory_mib: defaults.memory_mib };
        assert_eq!(Size::of(&Default::default(), &defaults), default);
        assert_eq!(Size::of(&limited(-1, 0, 0), &defaults), default);
        let memory_mib = 100 + defaults.memory_overhead_mib;
        assert_eq!(Size::of(&limited(150_000, 100, 0), &defaults), Size { vcpus: 2, memory_mib });
        assert_eq!(
            Size::of(&limited(150_000, 100, 30 + HOST), &defaults),
            Size { vcpus: 2, memory_mib: 130 }
        );
    }

    #[test]
    fn new_limits_fit_the_vm_or_are_refused_with_both_values() {
        let defaults = VmDefaults::default();
        let given = Size { vcpus: 2, memory_mib: 130 };
        for fits in [limited(200_000, 100, 30 + HOST), limited(50_000, 10, 0), limited(-1, 0, 0)] {
            given.check(&fits, &defaults).unwrap();
        }
        let refused = |config| match given.check(&config, &defaults) {
            Err(Error::Exhausted(text)) => text,
            other => panic!("{other:?}"),
        };
        let text = refused(limited(250_000, 10, 0));
        assert!(text.contains("3 vCPUs") && text.contains("made with 2") && !text.contains("MiB"), "{text}");
        let text = refused(limited(100_000, 101, 30 + HOST));
        assert!(text.contains("131 MiB") && text.contains("made with 130 MiB"), "{text}");
        let text = refused(limited(900_000, 1000, 0));
        assert!(text.contains("9 vCPUs") && text.contains("1064 MiB"), "{text}");
    }

    #[test]
    fn what_was_given_is_as_written_down_or_as_it_was_asked_for() {
        let defaults = VmDefaults::default();
        let config = Some(limited(150_000, 100, 30 + HOST));
        let mut record = SandboxRecord { config, ..Default::default() };
        assert_eq!(Size::given(&record, &defaults), Size { vcpus: 2, memory_mib: 130 });
        (record.vcpus, record.memory_mib) = (4, 512);
        assert_eq!(Size::given(&record, &defaults), Size { vcpus: 4, memory_mib: 512 });
    }
}
