//! The control protocol of a running VMM, over its unix stream socket.
//!
//! A client writes one [`Request`] as one line of JSON (at most [`MAX_LINE`] bytes) and reads one
//! [`Response`] line. Descriptors ([`Request::Attach`], [`Request::AttachFs`], [`Request::Snapshot`]) travel with their
//! line as `SCM_RIGHTS`.
//! Requests on one connection are answered in order; a VMM serves several connections. The end of the
//! connection says that the VMM is gone.

pub mod channel;
pub mod client;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The longest line, in bytes, that either side accepts.
pub const MAX_LINE: usize = 64 << 10;

/// The most descriptors that one [`Request::Attach`] carries (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 250;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// [`Reply::State`].
    State,
    /// Puts a medium into an empty block slot.
    Attach {
        /// Index of the slot.
        slot: u8,
        /// Writes of the guest are refused; the device says so (`VIRTIO_BLK_F_RO` cannot change after boot,
        /// so the guest learns it from the errors).
        read_only: bool,
        /// The disk is these pieces, one after the other.
        extents: Vec<Extent>,
    },
    /// Takes the medium out of a block slot, after the requests in flight.
    Detach {
        /// Index of the slot.
        slot: u8,
    },
    /// Gives the file system device its server: the one descriptor that comes along is a connection to a
    /// vhost-user back end (virtiofsd), which gets what the guest asks, and nothing of the guest's memory.
    AttachFs,
    /// Stops the vCPUs.
    Pause,
    /// Lets the vCPUs go on.
    Resume,
    /// Ends the VM at once, whatever the guest does; answered before the process exits.
    Stop,
    /// Writes the idle VM to the two descriptors that come along: empty files, open for reading and writing, the first
    /// for the machine's state and the second for the guest's memory. Clones are made of them
    /// ([`crate::config::RestoreConfig`]). The vCPUs are stopped by it, and stay so when it has succeeded.
    Snapshot,
    /// [`Reply::Statistics`].
    Statistics,
    /// Asks the guest to have so much memory, [`Reply::Memory`] tells how much it has. It gives memory back as far and
    /// as soon as it can, and none of what it booted with.
    Resize {
        /// MiB in all.
        memory_mib: u32,
        /// How long to wait for the guest, ms; the answer comes then at the latest.
        patience_ms: u32,
    },
}

/// A piece of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Index into the descriptors sent with the request.
    pub fd: usize,
    /// Bytes into the file; a multiple of 512.
    pub offset: u64,
    /// Bytes; a multiple of 512. What lies past the end of the file reads as zeroes.
    pub length: u64,
}

/// What the VMM answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It is done.
    Ok(Reply),
    /// It is not; why, for a person.
    Error(String),
}

/// An answer's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// To [`Request::State`].
    State(VmState),
    /// To [`Request::Statistics`].
    Statistics(Statistics),
    /// To [`Request::Resize`]: MiB.
    Memory(u32),
}

/// What the VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// vCPUs run.
    Running,
    /// vCPUs are stopped by [`Request::Pause`].
    Paused,
}

/// Counters since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// KVM exits of all vCPUs, by kind.
    pub exits: std::collections::BTreeMap<String, u64>,
    /// Bytes read from all block slots.
    pub block_read_bytes: u64,
    /// Bytes written to all block slots.
    pub block_write_bytes: u64,
    /// Block requests that failed.
    pub block_errors: u64,
    /// Bytes the guest received over all interfaces.
    pub net_rx_bytes: u64,
    /// Bytes the guest sent over all interfaces.
    pub net_tx_bytes: u64,
    /// Frames dropped in either direction.
    pub net_drops: u64,
    /// Open vsock connections.
    pub vsock_connections: u64,
    /// Bytes of free pages that the guest has reported, and the host taken back.
    pub balloon_reported_bytes: u64,
    /// Memory that the guest has, MiB.
    pub memory_mib: u32,
    /// Disks and network interfaces.
    pub devices: Vec<DeviceStatistics>,
    /// The steps of the VMM's start, in their order.
    pub marks: Vec<Mark>,
}

/// One device's counters since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatistics {
    /// "block0", after the slot, or "net0", after the interface's place in the configuration; its second pair
    /// of queues is "net0.1".
    pub name: String,
    /// Read requests that were done, or frames that the guest received.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Write requests that were done, or frames that the guest sent.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Requests of other kinds that were done: flushes, discards, zeroes, questions for the serial.
    pub others: u64,
    /// Requests that failed, or frames dropped in either direction.
    pub errors: u64,
    /// How often it had to wait for its rate limit.
    pub waits: u64,
    /// How long a disk's requests took from the device's first look at them to its answer: number `n` of these counts
    /// those of less than 2^`n` microseconds and no less than half of that, the last one all that took longer.
    pub latency_us: Vec<u64>,
}

/// A step of the VMM's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What was done by then.
    pub step: String,
    /// When: [`monotonic_micros`].
    pub micros: u64,
}

/// `CLOCK_MONOTONIC` of the host now, µs.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
