//! The protocols husk speaks, generated once for every crate that needs them.
//!
//! [`cri`] is Kubernetes' Container Runtime Interface v1, the server that `husk serve` is; [`agent`] is the
//! protocol between the daemon and the agent inside each pod's guest.

/// The Container Runtime Interface, v1 (`k8s.io/cri-api` 0.37.2, `pkg/apis/runtime/v1/api.proto`).
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// What the daemon asks of the agent, `protos/agent.proto`.
#[allow(missing_docs, clippy::all)]
pub mod agent {
    tonic::include_proto!("husk.agent.v1");
}

/// The paths of all calls of the CRI, as in `/runtime.v1.RuntimeService/Version`.
pub const CRI_PATHS: &[&str] = include!(concat!(env!("OUT_DIR"), "/cri_paths.rs"));

mod id_range;
mod ready;

pub use id_range::{BadIdRange, IdRange};
pub use ready::ReadyTimes;

/// The vsock port on which the agent serves [`agent`] to the host (CID 2).
pub const AGENT_PORT: u32 = 1024;

/// The vsock port on the host to which the agent connects once, as soon as [`AGENT_PORT`] is listened on:
/// the connection itself says "ready". It carries [`ReadyTimes`] and is closed at once.
pub const READY_PORT: u32 = 1025;

/// What the source of a bind mount begins with that is one of the pod's volumes; the path in the share follows
/// (see `agent.proto`).
pub const VOLUME_SOURCE: &str = "husk:volume/";

/// What the source of a bind mount begins with that is one of the volumes which the guest makes; its number in the
/// request follows (see `agent.proto`).
pub const GUEST_VOLUME_SOURCE: &str = "husk:guest-volume/";

/// The tag of the virtio-fs device that shows the guest its volumes.
pub const VOLUME_TAG: &str = "husk";

/// The ACPI id of the block slots of a guest that boots: no driver looks for it. The agent binds virtio-mmio's to a slot
/// when it looks for a disk that it has not seen, so that a boot does not wait for devices without a medium.
pub const LATE_SLOT_ID: &str = "HUSK0001";

/// The same of the file system device, which the agent binds for the first container with volumes.
pub const LATE_FS_ID: &str = "HUSK0002";

/// The same of the balloon and of the device of pluggable memory, which the agent binds once it has said that it listens.
pub const LATE_MEMORY_ID: &str = "HUSK0003";

/// Devices of the guest's own kernel that a container may ask for, by their names below /dev: what the daemon accepts
/// in a request and the agent makes nodes of.
pub const GUEST_DEVICES: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun"];

/// The largest message, in bytes, that either side of the agent's protocol accepts.
pub const AGENT_MAX_MESSAGE: usize = 4 << 20;
