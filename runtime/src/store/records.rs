//! What is written down of each pod and container.

use std::collections::HashMap;

use husk_proto::cri;

/// Where a pod or container is in its life. Written before the step that it names begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Being made; found after a restart, it is undone.
    Creating = 0,
    /// A container that has not been started.
    Created = 1,
    /// A ready pod, a running container.
    Running = 2,
    /// A pod whose VM is gone, a container whose process has exited.
    Stopped = 3,
    /// Being removed; found after a restart, it is finished.
    Removing = 4,
}

/// A pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SandboxRecord {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// As kubelet sent it.
    #[prost(message, optional, tag = "2")]
    pub config: Option<cri::PodSandboxConfig>,
    /// RuntimeClass handler.
    #[prost(string, tag = "3")]
    pub runtime_handler: String,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// Where it is in its life.
    #[prost(enumeration = "Phase", tag = "5")]
    pub phase: i32,
    /// The first is the pod's primary address.
    #[prost(string, repeated, tag = "6")]
    pub ips: Vec<String>,
    /// Of `husk-vmm`; with `vmm_started` it names one process for good.
    #[prost(int32, tag = "7")]
    pub vmm_pid: i32,
    /// Start time of that process, clock ticks since boot (field 22 of /proc/PID/stat).
    #[prost(uint64, tag = "8")]
    pub vmm_started: u64,
    /// Why the pod is not ready, or what a ready one has lost, for a person.
    #[prost(string, tag = "9")]
    pub message: String,
    /// vCPUs that its VM has; 0: not yet made, or by a daemon that did not write it down.
    #[prost(uint32, tag = "10")]
    pub vcpus: u32,
    /// Memory that its VM has, MiB; 0 as above.
    #[prost(uint32, tag = "11")]
    pub memory_mib: u32,
    /// The most vCPUs that its VM can have; 0: those that it has.
    #[prost(uint32, tag = "12")]
    pub max_vcpus: u32,
    /// The most memory that its VM can have, MiB; 0: what it has.
    #[prost(uint32, tag = "13")]
    pub max_memory_mib: u32,
    /// Whether the pod's limits have been set by UpdatePodSandboxResources: they count alone then, and no longer
    /// follow what is changed of containers'.
    #[prost(bool, tag = "14")]
    pub limits_set: bool,
    /// The guest's machine id; empty where no agent has told it.
    #[prost(string, tag = "31")]
    pub machine_id: String,
    /// Whether its VM is a clone of a template, and has not booted.
    #[prost(bool, tag = "32")]
    pub cloned: bool,
    /// Whether its VM is being made larger or smaller; found after a restart, it is made what its limits say.
    #[prost(bool, tag = "33")]
    pub resizing: bool,
    /// The user and group of its VMM; 0: root, by a daemon that knew no others.
    #[prost(uint32, tag = "30")]
    pub uid: u32,
    /// Volumes of the medium "Memory" by their paths on the host, and whether each is the guest's own memory. What
    /// has been decided for the first container holds for the pod's life.
    #[prost(map = "string, bool", tag = "20")]
    pub memory_volumes: HashMap<String, bool>,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its pod.
    #[prost(string, tag = "2")]
    pub sandbox_id: String,
    /// As kubelet sent it.
    #[prost(message, optional, tag = "3")]
    pub config: Option<cri::ContainerConfig>,
    /// The image's id, the digest of its configuration.
    #[prost(string, tag = "4")]
    pub image_id: String,
    /// Repository digest of the image, or its id.
    #[prost(string, tag = "5")]
    pub image_ref: String,
    /// Nanoseconds since the Unix epoch; 0: not yet.
    #[prost(int64, tag = "6")]
    pub created_at: i64,
    /// Nanoseconds since the Unix epoch; 0: not yet.
    #[prost(int64, tag = "7")]
    pub started_at: i64,
    /// Nanoseconds since the Unix epoch; 0: not yet.
    #[prost(int64, tag = "8")]
    pub finished_at: i64,
    /// Where it is in its life.
    #[prost(enumeration = "Phase", tag = "9")]
    pub phase: i32,
    /// 0 to 255.
    #[prost(int32, tag = "10")]
    pub exit_code: i32,
    /// "Completed", "Error", "OOMKilled", "StartError", "Unknown".
    #[prost(string, tag = "11")]
    pub reason: String,
    /// For a person.
    #[prost(string, tag = "12")]
    pub message: String,
    /// Absolute, empty: no log is kept.
    #[prost(string, tag = "13")]
    pub log_path: String,
    /// Resolved user and groups.
    #[prost(message, optional, tag = "15")]
    pub user: Option<husk_proto::agent::ResolvedUser>,
    /// The image's or request's stop signal's number.
    #[prost(uint32, tag = "16")]
    pub stop_signal: u32,
    /// The block slot of its image in its pod's VM; 0 (the scratch disk's): none yet.
    #[prost(uint32, tag = "17")]
    pub slot: u32,
    /// What it has in block slots beside its image.
    #[prost(message, repeated, tag = "20")]
    pub media: Vec<Medium>,
    /// The limits it was made with, once they have been changed.
    #[prost(message, optional, tag = "21")]
    pub first_limits: Option<cri::LinuxContainerResources>,
    /// Whether its limits are being changed; found after a restart, the guest is told those that are recorded.
    #[prost(bool, tag = "22")]
    pub limits_changing: bool,
}

/// What a container has in a block slot of its pod's VM: an image that is a volume, or a device of the host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Medium {
    /// The image's id; empty: a device.
    #[prost(string, tag = "1")]
    pub image_id: String,
    /// The device.
    #[prost(message, optional, tag = "2")]
    pub device: Option<HostDevice>,
    /// 0 (the scratch disk's): none yet.
    #[prost(uint32, tag = "3")]
    pub slot: u32,
}

/// A block device of the host. Its number names it as long as somebody has it open.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HostDevice {
    /// Where it was found.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its number.
    #[prost(uint32, tag = "2")]
    pub major: u32,
    /// Its number.
    #[prost(uint32, tag = "3")]
    pub minor: u32,
    /// Whether the guest may write to it.
    #[prost(bool, tag = "4")]
    pub writable: bool,
}

impl ContainerRecord {
    /// The ids of the images that it needs: that of its root, and its volumes.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let volumes = self.media.iter().map(|medium| medium.image_id.as_str());
        std::iter::once(self.image_id.as_str()).chain(volumes).filter(|id| !id.is_empty())
    }
}

impl Medium {
    /// What its slot is known by.
    pub fn key(&self) -> String {
        match &self.device {
            Some(device) => format!("device {}:{}", device.major, device.minor),
            None => self.image_id.clone(),
        }
    }
}
