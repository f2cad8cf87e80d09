//! How a VM is described: the JSON file that `husk-vmm --config` reads.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A VM to be booted. Paths are opened once, at the start. The sockets that the VMM makes are its starter's to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Name of the VM in logs and process titles: the sandbox's id.
    pub id: String,
    /// Whom the VMM becomes, and where. Root has to say it, and nobody else can.
    #[serde(default)]
    pub jail: Option<JailConfig>,
    /// Number of vCPUs that the guest starts with, 1 to 32.
    pub vcpus: u8,
    /// Number of vCPUs that it may bring online while it runs, `vcpus` to 32.
    pub max_vcpus: u8,
    /// CPUs of the host that vCPUs are tied to: the first vCPU to the first, and from the beginning again where there are
    /// fewer. Empty: the host's scheduler decides.
    #[serde(default)]
    pub vcpu_cpus: Vec<u16>,
    /// The nice value of all threads (sched(7)), -20 to 19.
    #[serde(default)]
    pub nice: i8,
    /// Memory that the guest boots with, MiB, at least 32.
    pub memory_mib: u32,
    /// Whether the guest's memory comes in huge pages of 2 MiB, which the host has set aside (hugetlbfs). What of it the
    /// guest boots with is reserved at the start. Such a VM is no template, and no clone of one.
    #[serde(default)]
    pub huge_pages: bool,
    /// Memory that it may have beyond; without it there is no such device.
    #[serde(default)]
    pub hotplug: Option<HotplugConfig>,
    /// Uncompressed x86-64 kernel (ELF `vmlinux`).
    pub kernel: PathBuf,
    /// Whether the kernel is to have plain returns from the start, as it would make of its return thunks itself on CPUs of
    /// which [`crate::host_cpus::returns_are_safe`] is true. To be said of no others.
    #[serde(default)]
    pub plain_returns: bool,
    /// cpio archive (may be compressed as the kernel allows) with the agent as `/init`.
    pub initramfs: PathBuf,
    /// Appended to the VMM's own kernel command line.
    #[serde(default)]
    pub cmdline: String,
    /// Where the serial console's output goes.
    pub console_log: PathBuf,
    /// Past this many bytes the oldest half of the console's log is dropped.
    pub console_log_limit: u64,
    /// Block devices declared at boot, all without a medium (capacity 0); their serials are
    /// [`slot_serial`]`(0..)`.
    pub block_slots: u8,
    /// Devices that the guest boots without.
    #[serde(default)]
    pub late: LateDevices,
    /// Tag of a virtio-fs device, 1 to 36 bytes; its server is attached later. Without one there is no device.
    #[serde(default)]
    pub fs_tag: Option<String>,
    /// Network interfaces.
    pub nets: Vec<NetConfig>,
    /// The guest's vsock.
    pub vsock: VsockConfig,
    /// The control socket that the VMM makes and listens on (mode 0600), see [`crate::control`].
    pub control_socket: PathBuf,
    /// Where to go on instead of booting. Size and devices must be those of the VM that was saved; `vcpus`, `kernel`,
    /// `initramfs` and `cmdline` are as they were then, whatever is said here.
    #[serde(default)]
    pub restore: Option<RestoreConfig>,
    /// What it may do in a time.
    #[serde(default)]
    pub limits: Limits,
    /// Whether it may be saved. What that takes of the system is not given to a VM that runs a tenant's code.
    #[serde(default)]
    pub savable: bool,
}

/// Rate limits; by default there are none. A guest that reaches one waits, and loses nothing by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Of requests to all block slots together, whatever they ask for.
    pub block: RateLimit,
    /// Of frames that the guest receives over all interfaces together. Those that come while it waits are kept in the
    /// taps' queues, and dropped when these are full.
    pub net_rx: RateLimit,
    /// Of frames that the guest sends over all interfaces together.
    pub net_tx: RateLimit,
}

/// How much may pass in a time; what is not said is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Requests or frames. With segmentation offload a frame holds as much as 64 KiB.
    pub operations: Option<Rate>,
    /// Bytes of their data, or of frames with their Ethernet headers.
    pub bytes: Option<Rate>,
}

/// A token bucket: what passes in any time is at most the burst, what the rate makes of the time, and one request or
/// frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// 1 or more.
    pub per_second: u64,
    /// What may pass at once when nothing has passed for a while, 1 or more.
    pub burst: u64,
}

/// Devices for which no driver of the guest's looks by itself, by their ACPI ids: four capital letters and four
/// hexadecimal digits that the guest's drivers do not know, so that it has to bind them by hand (`driver_override` of
/// Linux' platform bus). Those of which nothing is said the guest finds at its boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LateDevices {
    /// Block devices.
    pub slots: Option<LateSlots>,
    /// The file system device.
    pub fs: Option<String>,
    /// The balloon and the device of pluggable memory.
    pub memory: Option<String>,
}

/// Late block devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateSlots {
    /// Their ACPI id.
    pub acpi_id: String,
    /// The number of the first; those before it are found as other devices are.
    pub first: u8,
}

/// The two files that [`crate::control::Request::Snapshot`] has filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// The machine's state.
    pub state: PathBuf,
    /// The guest's memory. It is mapped copy-on-write, and must not change while a VM runs from it.
    pub memory: PathBuf,
    /// Whether to read all of the memory first and compare it with its checksum.
    #[serde(default)]
    pub verify: bool,
    /// Which pages of the memory are copied before the guest goes on, because it will write to them at once
    /// ([`crate::written::Written`]).
    #[serde(default)]
    pub written: Option<PathBuf>,
}

/// What is special about one VMM's confinement. It has to be started as the first process of a PID namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// The user that it becomes; nobody else's.
    pub uid: u32,
    /// The group that it becomes; nobody else's.
    pub gid: u32,
    /// An inherited descriptor of the network namespace that it enters. Without one it enters a new one, in which there
    /// is nothing.
    #[serde(default)]
    pub network_fd: Option<i32>,
}

/// The virtio-mem device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotplugConfig {
    /// The most, MiB; a multiple of [`HOTPLUG_SLOT_MIB`]. It costs nothing until it is plugged.
    pub limit_mib: u32,
    /// How much the guest is to plug as soon as it can, MiB.
    pub requested_mib: u32,
}

/// Pluggable memory comes in pieces that Linux can add, MiB.
pub const HOTPLUG_SLOT_MIB: u32 = 128;

/// The most pairs of queues of an interface.
pub const MAX_NET_QUEUES: u8 = 4;

/// One virtio-net device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Inherited descriptors of a tap, one for each pair of queues, opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, and
    /// with `IFF_MULTI_QUEUE` where there are several. An interface without any carries nothing: it is for a VM that is
    /// saved and cloned.
    #[serde(default)]
    pub tap_fds: Vec<i32>,
    /// Pairs of queues, 1 to [`MAX_NET_QUEUES`]. Each beyond the first has a thread of its own.
    pub queues: u8,
    /// "02:42:ac:11:00:02"
    pub mac: String,
    /// Bytes; offered to the guest as `VIRTIO_NET_F_MTU`.
    pub mtu: u16,
}

/// The virtio-vsock device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id, 3 or more.
    pub cid: u32,
    /// The unix socket that the VMM listens on: a client writes `CONNECT <port>\n`, is answered
    /// `OK <host port>\n`, and is then connected to the guest's port.
    pub socket: PathBuf,
    /// An inherited descriptor that listens at `socket` already, so that clients need not wait until the VMM does. Without
    /// one the VMM makes the socket (mode 0600).
    #[serde(default)]
    pub listener_fd: Option<i32>,
    /// An inherited descriptor to which the guest's connections to ports of the host (CID 2) come, see
    /// [`crate::host_ports`]. Without one they are refused.
    #[serde(default)]
    pub host_fd: Option<i32>,
}

/// The serial (`VIRTIO_BLK_T_GET_ID`) of block slot `slot`, by which the guest finds it.
pub fn slot_serial(slot: u8) -> String {
    format!("husk-slot-{slot}")
}
