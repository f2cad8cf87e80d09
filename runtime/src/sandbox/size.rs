//! How large a pod's VM is, and how large it may become.

use husk_proto::cri;
use husk_vmm::config::{HOTPLUG_SLOT_MIB, HotplugConfig};

use super::HOST_MIB;
use crate::config::VmDefaults;
use crate::container::resources::HUGE_PAGE;
use crate::error::{Error, Result};
use crate::host;
use crate::store::{ContainerRecord, SandboxRecord};

/// The most vCPUs of a VM, whatever its pod asks for.
const MAX_VCPUS: u64 = 32;
/// The most that a VM may come to have unless it is configured.
const DEFAULT_MAX_VCPUS: usize = 8;
/// A VM boots with no more than this and plugs the rest, which it can give back one day, MiB.
const BOOT_MIB: u32 = 256;
/// But at least with this part of it, because the kernel sizes its tables by what it boots with.
const BOOT_PART: u32 = 8;
/// And with a multiple of this, so that pods of many sizes can be clones of few templates, MiB.
const BOOT_STEP: u32 = 64;
/// The least memory of a VM, MiB.
const MIN_MIB: u32 = 64;

/// A VM's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// vCPUs.
    pub vcpus: u8,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// What of it is set aside as huge pages, MiB.
    pub huge_mib: u32,
}

/// Limits of a pod or container; 0: it has no such limit.
#[derive(Clone, Copy, Default)]
struct Limits {
    millicpus: u64,
    memory: u64,
    huge: u64,
}

impl Limits {
    fn of(resources: &cri::LinuxContainerResources) -> Self {
        let (quota, period) = (resources.cpu_quota, resources.cpu_period);
        let limited = quota > 0 && period > 0;
        let millicpus = if limited { (quota as u64).saturating_mul(1000).div_ceil(period as u64) } else { 0 };
        let huge = resources.hugepage_limits.iter().filter(|limit| limit.page_size == HUGE_PAGE);
        let huge = huge.fold(0, |sum: u64, limit| sum.saturating_add(limit.limit));
        Limits { millicpus, memory: resources.memory_limit_in_bytes.max(0) as u64, huge }
    }
}

/// Limits of a container: as they are, and as they were when it was made.
#[derive(Clone, Copy)]
pub struct Claim {
    now: Limits,
    first: Limits,
}

impl Claim {
    /// Of a container; `instead` takes the place of its limits.
    pub fn of(record: &ContainerRecord, instead: Option<&cri::LinuxContainerResources>) -> Self {
        let config = record.config.as_ref();
        let own = config.and_then(|config| config.linux.as_ref()?.resources.as_ref());
        let now = instead.or(own).map(Limits::of).unwrap_or_default();
        let first = record.first_limits.as_ref().or(own).map(Limits::of).unwrap_or_default();
        Self { now, first }
    }
}

impl Size {
    /// What a pod's limits and those of its live containers come to. A pod without limits of its own is at least as large
    /// as the defaults. One with limits follows its containers' when these are changed, until its own are
    /// (`limits_set`): some kubelets tell of both, and some of the containers' alone.
    pub fn of(
        config: &cri::PodSandboxConfig,
        limits_set: bool,
        containers: &[Claim],
        defaults: &VmDefaults,
    ) -> Size {
        let linux = config.linux.as_ref();
        let pod = linux.and_then(|linux| linux.resources.as_ref()).map(Limits::of).unwrap_or_default();
        let total = |part: fn(&Limits) -> u64| {
            let sum = |which: fn(&Claim) -> &Limits| {
                let limited =
                    containers.iter().filter(|claim| part(&claim.now) > 0 && part(&claim.first) > 0);
                limited.map(|claim| part(which(claim))).fold(0, u64::saturating_add)
            };
            let all = containers.iter().map(|claim| part(&claim.now)).fold(0, u64::saturating_add);
            let own = match part(&pod) {
                own if own > 0 && !limits_set => {
                    own.saturating_add(sum(|claim| &claim.now)).saturating_sub(sum(|claim| &claim.first))
                }
                own => own,
            };
            own.max(all)
        };
        let (millicpus, memory) = (total(|limits| limits.millicpus), total(|limits| limits.memory));
        let vcpus = millicpus.div_ceil(1000).min(MAX_VCPUS) as u8;
        let memory_mib = match memory {
            0 => 0,
            bytes => mib(bytes).saturating_add(overhead(config, defaults)).clamp(MIN_MIB, u32::MAX / 2),
        };
        // Huge pages are no part of what limits memory: they come on top.
        let huge = containers.iter().map(|claim| claim.now.huge).fold(0, u64::saturating_add);
        let huge_mib = mib(huge).min(u32::MAX / 4);
        let floor = |limit: u64, value| if limit == 0 { value } else { 0 };
        Size {
            vcpus: vcpus.max(floor(pod.millicpus, u64::from(defaults.vcpus)) as u8).max(1),
            memory_mib: memory_mib
                .max(floor(pod.memory, u64::from(defaults.memory_mib)) as u32)
                .saturating_add(huge_mib),
            huge_mib,
        }
    }

    /// What a pod's VM has, but for huge pages, which are not written down.
    pub fn given(record: &SandboxRecord, defaults: &VmDefaults) -> Size {
        let by_limits = Size::of(record.config.as_ref().unwrap_or(&Default::default()), false, &[], defaults);
        Size {
            vcpus: u8::try_from(record.vcpus).ok().filter(|vcpus| *vcpus > 0).unwrap_or(by_limits.vcpus),
            memory_mib: if record.memory_mib > 0 { record.memory_mib } else { by_limits.memory_mib },
            huge_mib: 0,
        }
    }

    /// As large in each respect as the larger of both.
    pub fn or_more(self, other: Size) -> Size {
        Size {
            vcpus: self.vcpus.max(other.vcpus),
            memory_mib: self.memory_mib.max(other.memory_mib),
            huge_mib: self.huge_mib.max(other.huge_mib),
        }
    }

    /// What of its memory a VM boots with, MiB; the rest is plugged.
    pub fn boot_mib(&self) -> u32 {
        let part = (self.memory_mib / BOOT_PART).next_multiple_of(HOTPLUG_SLOT_MIB);
        let whole = self.memory_mib / BOOT_STEP * BOOT_STEP;
        whole.max(MIN_MIB).min(part.max(BOOT_MIB)).min(self.memory_mib)
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX / 2)
}

/// What the guest's kernel and agent need comes on top of the memory: as the RuntimeClass says (`overhead`) without
/// the host's share of it, else as configured. With an overhead, guest and host's share together are what kubelet
/// limits the pod to. MiB.
fn overhead(config: &cri::PodSandboxConfig, defaults: &VmDefaults) -> u32 {
    let overhead = config.linux.as_ref().and_then(|linux| linux.overhead.as_ref());
    match overhead.map_or(0, |overhead| overhead.memory_limit_in_bytes.max(0) as u64) {
        0 => defaults.memory_overhead_mib,
        bytes => mib(bytes).saturating_sub(HOST_MIB),
    }
}

/// How large a VM can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// vCPUs.
    pub max_vcpus: u8,
    /// Memory, MiB.
    pub max_memory_mib: u32,
}

impl Room {
    /// Of a VM that starts with `size`.
    pub fn of(size: Size, defaults: &VmDefaults) -> Room {
        let vcpus = match defaults.max_vcpus {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(DEFAULT_MAX_VCPUS)) as u8,
            most => most,
        };
        let memory = match defaults.max_memory_mib {
            0 => host::memory_mib(),
            most => most,
        };
        let boot = size.boot_mib();
        // One slot more than nothing: there is always something to plug.
        let beyond = memory.max(size.memory_mib).saturating_sub(boot).max(1);
        let beyond = beyond.min(u32::MAX / 4).next_multiple_of(HOTPLUG_SLOT_MIB);
        Room { max_vcpus: vcpus.max(size.vcpus), max_memory_mib: boot.saturating_add(beyond) }
    }

    /// Of a pod's VM.
    pub fn given(record: &SandboxRecord, defaults: &VmDefaults) -> Room {
        let size = Size::given(record, defaults);
        Room {
            max_vcpus: u8::try_from(record.max_vcpus).unwrap_or(u8::MAX).max(size.vcpus),
            max_memory_mib: record.max_memory_mib.max(size.memory_mib),
        }
    }

    /// For the VM's description.
    pub fn hotplug(&self, size: Size) -> HotplugConfig {
        let boot = size.boot_mib();
        HotplugConfig { limit_mib: self.max_memory_mib - boot, requested_mib: size.memory_mib - boot }
    }

    /// A size that is no larger.
    pub fn cap(&self, size: Size) -> Size {
        Size {
            vcpus: size.vcpus.min(self.max_vcpus),
            memory_mib: size.memory_mib.min(self.max_memory_mib),
            huge_mib: size.huge_mib,
        }
    }

    /// Whether it is enough for what a pod's limits, which came to `before`, come to now. What is beyond it already may
    /// stay or go down.
    ///
    /// # Errors
    /// [`Error::Exhausted`] with both values.
    pub fn check(&self, size: Size, before: Size) -> Result<()> {
        let mut beyond = Vec::new();
        if size.vcpus > self.max_vcpus.max(before.vcpus) {
            let most = self.max_vcpus;
            beyond.push(format!("{} vCPUs, but its VM can have {most} (vm.max_vcpus)", size.vcpus));
        }
        if size.memory_mib > self.max_memory_mib.max(before.memory_mib) {
            beyond.push(format!(
                "{} MiB of memory with its overhead, but its VM can have {} MiB (vm.max_memory_mib)",
                size.memory_mib, self.max_memory_mib
            ));
        }
        if beyond.is_empty() {
            return Ok(());
        }
        Err(Error::Exhausted(format!(
            "the pod's new limits need {}; lower them, or make the pod anew with these limits",
            beyond.join(", and ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: i64 = HOST_MIB as i64;

    fn resources(cpu_quota: i64, memory_mib: i64) -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            cpu_quota,
            cpu_period: 100_000,
            memory_limit_in_bytes: memory_mib << 20,
            ..Default::default()
        }
    }

    fn limited(cpu_quota: i64, memory_mib: i64, overhead_mib: i64) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: Some(resources(cpu_quota, memory_mib)),
                overhead: (overhead_mib > 0).then(|| resources(0, overhead_mib)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn claim(memory_mib: i64, first_mib: i64) -> Claim {
        let limits = |memory_mib| Limits::of(&resources(0, memory_mib));
        Claim { now: limits(memory_mib), first: limits(first_mib) }
    }

    fn of(config: &cri::PodSandboxConfig) -> Size {
        Size::of(config, false, &[], &VmDefaults::default())
    }

    #[test]
    fn the_vm_is_as_large_as_the_pods_limits() {
        let defaults = VmDefaults::default();
        let default = Size { vcpus: defaults.vcpus, memory_mib: defaults.memory_mib, huge_mib: 0 };
        assert_eq!(of(&Default::default()), default);
        assert_eq!(of(&limited(-1, 0, 0)), default);
        let memory_mib = 100 + defaults.memory_overhead_mib;
        assert_eq!(of(&limited(150_000, 100, 0)), Size { vcpus: 2, memory_mib, huge_mib: 0 });
        assert_eq!(of(&limited(150_000, 100, 30 + HOST)), Size { vcpus: 2, memory_mib: 130, huge_mib: 0 });
        assert_eq!(of(&limited(i64::MAX, i64::MAX >> 20, 0)).vcpus, 32);
    }

    #[test]
    fn containers_of_a_pod_without_limits_have_room() {
        let defaults = VmDefaults::default();
        let memory = |claims: &[Claim]| Size::of(&Default::default(), false, claims, &defaults).memory_mib;
        assert_eq!(memory(&[claim(100, 100)]), defaults.memory_mib);
        assert_eq!(
            memory(&[claim(300, 300), claim(0, 0), claim(100, 50)]),
            400 + defaults.memory_overhead_mib
        );
        let huge = cri::LinuxContainerResources {
            hugepage_limits: vec![cri::HugepageLimit { page_size: HUGE_PAGE.into(), limit: 32 << 20 }],
            ..Default::default()
        };
        let record = ContainerRecord::default();
        let size = Size::of(&Default::default(), false, &[Claim::of(&record, Some(&huge))], &defaults);
        assert_eq!((size.huge_mib, size.memory_mib), (32, defaults.memory_mib + 32));
        let claims = [Claim::of(&record, Some(&resources(350_000, 0)))];
        assert_eq!(Size::of(&Default::default(), false, &claims, &defaults).vcpus, 4);
    }

    #[test]
    fn a_pod_with_limits_follows_its_containers_until_its_own_are_set() {
        let defaults = VmDefaults::default();
        let memory = |set, claims: &[Claim]| {
            Size::of(&limited(0, 300, 0), set, claims, &defaults).memory_mib - defaults.memory_overhead_mib
        };
        assert_eq!(memory(false, &[claim(100, 100)]), 300);
        assert_eq!(memory(false, &[claim(150, 100)]), 350);
        assert_eq!(memory(false, &[claim(50, 100), claim(100, 100)]), 250);
        assert_eq!(memory(false, &[claim(0, 0), claim(700, 0)]), 700);
        assert_eq!(memory(true, &[claim(150, 100)]), 300);
        assert_eq!(memory(true, &[claim(50, 100)]), 300);
        assert_eq!(memory(true, &[claim(400, 100)]), 400);
    }

    #[test]
    fn a_vm_boots_with_little_and_can_have_much() {
        let size = |memory_mib| Size { vcpus: 1, memory_mib, huge_mib: 0 };
        assert_eq!([100, 256, 300, 4096, 65_536].map(|mib| size(mib).boot_mib()), [64, 256, 256, 512, 8192]);
        let defaults = VmDefaults { max_memory_mib: 1000, max_vcpus: 4, ..Default::default() };
        let room = Room::of(size(300), &defaults);
        assert_eq!(room, Room { max_vcpus: 4, max_memory_mib: 256 + 768 });
        assert_eq!(room.hotplug(size(300)), HotplugConfig { limit_mib: 768, requested_mib: 44 });
        let larger = Room::of(Size { vcpus: 6, memory_mib: 2048, huge_mib: 0 }, &defaults);
        assert_eq!(larger, Room { max_vcpus: 6, max_memory_mib: 2048 });
        let small = VmDefaults { max_memory_mib: 64, ..defaults };
        assert_eq!(
            Room::of(size(64), &small).hotplug(size(64)),
            HotplugConfig { limit_mib: 128, requested_mib: 0 }
        );
    }

    #[test]
    fn what_is_more_than_can_be_is_refused_with_both_values() {
        let room = Room { max_vcpus: 2, max_memory_mib: 1000 };
        let before = Size { vcpus: 1, memory_mib: 64, huge_mib: 0 };
        room.check(Size { vcpus: 2, memory_mib: 1000, huge_mib: 0 }, before).unwrap();
        let refused = |vcpus, memory_mib| match room.check(Size { vcpus, memory_mib, huge_mib: 0 }, before) {
            Err(Error::Exhausted(text)) => text,
            other => panic!("{other:?}"),
        };
        let text = refused(3, 10);
        assert!(text.contains("3 vCPUs") && text.contains("can have 2") && !text.contains("MiB"), "{text}");
        let text = refused(1, 1001);
        assert!(text.contains("1001 MiB") && text.contains("can have 1000 MiB"), "{text}");
        let text = refused(9, 2000);
        assert!(text.contains("9 vCPUs") && text.contains("2000 MiB"), "{text}");
        let beyond = Size { vcpus: 4, memory_mib: 4000, huge_mib: 0 };
        room.check(Size { vcpus: 3, memory_mib: 4000, huge_mib: 0 }, beyond).unwrap();
        assert!(room.check(Size { vcpus: 3, memory_mib: 4001, huge_mib: 0 }, beyond).is_err());
        assert_eq!(
            room.cap(Size { vcpus: 9, memory_mib: 5, huge_mib: 0 }),
            Size { vcpus: 2, memory_mib: 5, huge_mib: 0 }
        );
    }

    #[test]
    fn what_was_given_is_as_written_down_or_as_it_was_asked_for() {
        let defaults = VmDefaults::default();
        let config = Some(limited(150_000, 100, 30 + HOST));
        let mut record = SandboxRecord { config, ..Default::default() };
        assert_eq!(Size::given(&record, &defaults), Size { vcpus: 2, memory_mib: 130, huge_mib: 0 });
        assert_eq!(Room::given(&record, &defaults), Room { max_vcpus: 2, max_memory_mib: 130 });
        (record.vcpus, record.memory_mib) = (4, 512);
        assert_eq!(Size::given(&record, &defaults), Size { vcpus: 4, memory_mib: 512, huge_mib: 0 });
        (record.max_vcpus, record.max_memory_mib) = (8, 1024);
        assert_eq!(Room::given(&record, &defaults), Room { max_vcpus: 8, max_memory_mib: 1024 });
    }
}
