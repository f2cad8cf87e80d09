//! What a pod's VM is unless the pod says otherwise: `[vm]`, and `[handlers.NAME]` for the pods of a RuntimeClass.

use std::path::{Path, PathBuf};

use husk_vmm::config::{Limits, MAX_NET_QUEUES, Rate, RateLimit};
use serde::Deserialize;

use super::beside_self;
use crate::error::{Error, Result};

/// The guest and its monitor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmDefaults {
    /// The `husk-vmm` program. Default: beside `husk` itself.
    pub vmm: PathBuf,
    /// Uncompressed guest kernel.
    pub kernel: PathBuf,
    /// Initramfs with the agent.
    pub initramfs: PathBuf,
    /// vCPUs of a pod that asks for none.
    pub vcpus: u8,
    /// The most vCPUs that a pod may come to have while it runs, unless it starts with more; 0: as many as the host
    /// has, at most 8. Each costs its guest some memory, whether it is used or not.
    pub max_vcpus: u8,
    /// Memory of a pod that asks for none, MiB.
    pub memory_mib: u32,
    /// The most memory that a pod may come to have while it runs, unless it starts with more, MiB; 0: as much as the
    /// host has. It costs nothing until it is used.
    pub max_memory_mib: u32,
    /// Added to the memory that a pod asks for, MiB: what the guest's kernel and agent need.
    pub memory_overhead_mib: u32,
    /// Block slots: distinct images and block devices that a pod can use at once, plus one for its scratch disk.
    pub block_slots: u8,
    /// Size limit of a pod's scratch disk, MiB; it is sparse.
    pub scratch_mib: u64,
    /// The most that a pod may ask for instead, MiB; less than `scratch_mib` is as much as that.
    pub scratch_max_mib: u64,
    /// How long a guest may take from start to a listening agent, seconds.
    pub boot_timeout_secs: u64,
    /// Seconds after which a guest is ended whose agent does not answer; 0: never.
    pub agent_timeout_secs: u64,
    /// The most requests of a pod to its disks, each second; 0: as many as the host can do.
    pub disk_operations: u64,
    /// The most bytes that a pod reads from and writes to its disks, each second; 0 as above.
    pub disk_bytes: u64,
    /// The most bytes that a pod receives from its network, each second; 0 as above.
    pub net_rx_bytes: u64,
    /// The most bytes that a pod sends to its network, each second; 0 as above.
    pub net_tx_bytes: u64,
    /// Pairs of queues of each network interface, 1 to 4. A pod with several vCPUs sends and receives over as many at once;
    /// each beyond the first costs the monitor a thread, and the guest some memory.
    pub net_queues: u8,
    /// CPUs of the host that vCPUs are tied to, in turn; empty: none.
    pub vcpu_cpus: Vec<u16>,
    /// The nice value of a VM's threads, -20 to 19.
    pub nice: i8,
    /// Whether guests' memory comes in huge pages of 2 MiB that the host has set aside. Such pods boot.
    pub huge_pages: bool,
    /// Bytes of a guest's console that are kept.
    pub console_limit: u64,
    /// First and last of the users, and groups of the same numbers, that are husk's alone: the monitor of each pod
    /// becomes one of them.
    pub uid_range: [u32; 2],
    /// Whether pods' VMs are clones of templates: guests that have booted and were saved. The first pod of a kind boots,
    /// and a template is made after it.
    pub templates: bool,
    /// Which pods can be clones of the same template.
    pub template_scope: TemplateScope,
    /// The most templates that are kept. A template that was used within the last ten minutes makes no room.
    pub max_templates: usize,
}

/// Pods that can be clones of the same template: they share its memory's pages until they write to them, and the address
/// layout of its kernel and agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateScope {
    /// All of a RuntimeClass handler.
    Handler,
    /// Those that are in one Kubernetes namespace as well.
    Namespace,
}

impl Default for VmDefaults {
    fn default() -> Self {
        VmDefaults {
            vmm: beside_self("husk-vmm"),
            kernel: asset("vmlinux"),
            initramfs: asset("initramfs.cpio"),
            vcpus: 1,
            max_vcpus: 0,
            memory_mib: 256,
            max_memory_mib: 0,
            memory_overhead_mib: 64,
            block_slots: 12,
            scratch_mib: 10 << 10,
            scratch_max_mib: 0,
            boot_timeout_secs: 60,
            agent_timeout_secs: 30,
            disk_operations: 0,
            disk_bytes: 0,
            net_rx_bytes: 0,
            net_tx_bytes: 0,
            net_queues: 1,
            vcpu_cpus: Vec::new(),
            nice: 0,
            huge_pages: false,
            console_limit: 1 << 20,
            // Above all that systemd, useradd and kubelet give to users, services, containers and user namespaces.
            uid_range: [1_879_048_192, 1_879_113_727],
            templates: true,
            template_scope: TemplateScope::Handler,
            max_templates: 8,
        }
    }
}

impl VmDefaults {
    /// What there is of a VM before it is started: names for a person, and files.
    pub fn files(&self) -> [(&'static str, &Path); 3] {
        [("VMM", &self.vmm), ("guest kernel", &self.kernel), ("initramfs", &self.initramfs)]
    }

    /// What a VM may do in a time. What it has not used of a second may come at once.
    pub fn limits(&self) -> Limits {
        let rate = |per_second: u64| (per_second > 0).then_some(Rate { per_second, burst: per_second });
        let bytes = |per_second| RateLimit { operations: None, bytes: rate(per_second) };
        Limits {
            block: RateLimit { operations: rate(self.disk_operations), bytes: rate(self.disk_bytes) },
            net_rx: bytes(self.net_rx_bytes),
            net_tx: bytes(self.net_tx_bytes),
        }
    }

    /// Whether VMs are clones of templates: a file is no huge page.
    pub fn clones(&self) -> bool {
        self.templates && !self.huge_pages
    }

    /// Checks what the types cannot say; `table` is where it is in the file.
    pub(super) fn validate(&self, table: &str) -> Result<()> {
        let wrong = |key: &str, value: String, what: &str| {
            Err(Error::Invalid(format!("{table}.{key} = {value}: use {what}")))
        };
        if !(2..=14).contains(&self.block_slots) {
            return wrong("block_slots", self.block_slots.to_string(), "2 to 14");
        }
        if !(1..=32).contains(&self.vcpus) {
            return wrong("vcpus", self.vcpus.to_string(), "1 to 32");
        }
        if self.max_vcpus > 32 {
            return wrong("max_vcpus", self.max_vcpus.to_string(), "1 to 32, or 0 for the host's");
        }
        if !(1..=MAX_NET_QUEUES).contains(&self.net_queues) {
            return wrong("net_queues", self.net_queues.to_string(), &format!("1 to {MAX_NET_QUEUES}"));
        }
        if self.memory_mib < 64 {
            return wrong("memory_mib", self.memory_mib.to_string(), "64 or more");
        }
        if !(1..=256).contains(&self.max_templates) {
            return wrong(
                "max_templates",
                self.max_templates.to_string(),
                "1 to 256, or switch templates off",
            );
        }
        if !(-20..20).contains(&self.nice) {
            return wrong("nice", self.nice.to_string(), "-20 to 19");
        }
        let [first, last] = self.uid_range;
        if first == 0 || first >= last || last == u32::MAX {
            let what = "two numbers of users from 1 to 4294967294, the lower one first";
            return wrong("uid_range", format!("[{first}, {last}]"), what);
        }
        Ok(())
    }
}

fn asset(name: &str) -> PathBuf {
    Path::new("/usr/lib/husk").join(name)
}
