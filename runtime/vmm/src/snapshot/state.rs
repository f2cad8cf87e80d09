//! The state file.
//!
//! ```text
//!  0  "HUSKSNAP"
//!  8  version of the format, u32 little-endian
//! 12  bytes of the content, u32
//! 16  version of husk-vmm, 32 bytes, filled with zeroes
//! 48  SHA-256 of all that is before it and of the content
//! 80  the content: JSON of `State`
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use kvm_bindings::{kvm_clock_data, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vm_superio::serial::SerialState;

use super::memory::MemoryDigest;
use super::vcpu::VcpuState;
use super::vm::IrqChips;
use crate::config::VmConfig;
use crate::virtio::TransportState;

const MAGIC: [u8; 8] = *b"HUSKSNAP";
/// Changes whenever what follows has another meaning.
const FORMAT: u32 = 2;
/// Bytes of the version's field.
const VERSION_BYTES: usize = 32;
const SUM_AT: usize = 16 + VERSION_BYTES;
const HEADER: usize = SUM_AT + 32;
/// The longest content: 32 vCPUs and 19 devices need far less.
const MAX_CONTENT: usize = 4 << 20;

/// Why a state file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read, or ends too early.
    #[error("reading it: {0}")]
    Read(#[from] io::Error),
    /// Something else.
    #[error("it is not the state of a snapshot")]
    Magic,
    /// Of another time.
    #[error("its format is {found}, and this husk-vmm knows {FORMAT}; make the snapshot anew")]
    Format {
        /// In the file.
        found: u32,
    },
    /// Of another build.
    #[error("it was made by husk-vmm {found}, and this is {own}; make the snapshot anew", own = env!("CARGO_PKG_VERSION"))]
    Version {
        /// In the file.
        found: String,
    },
    /// The length is not what the header says.
    #[error("it should have {wanted} bytes behind its header, at most {MAX_CONTENT}, and has {found}")]
    Length {
        /// By the header.
        wanted: usize,
        /// In the file.
        found: usize,
    },
    /// Bits have changed.
    #[error("it is damaged: its checksum differs")]
    Damaged,
    /// The content.
    #[error("its content: {0}")]
    Content(#[from] serde_json::Error),
}

/// What of a VM's description the guest has seen at its boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    max_vcpus: u8,
    memory_mib: u32,
    hotplug_limit_mib: Option<u32>,
    block_slots: u8,
    fs_tag: Option<String>,
    /// Pairs of queues of each interface.
    nets: Vec<u8>,
}

impl Shape {
    /// Of a description.
    pub fn of(config: &VmConfig) -> Self {
        Self {
            max_vcpus: config.max_vcpus,
            memory_mib: config.memory_mib,
            hotplug_limit_mib: config.hotplug.as_ref().map(|hotplug| hotplug.limit_mib),
            block_slots: config.block_slots,
            fs_tag: config.fs_tag.clone(),
            nets: config.nets.iter().map(|net| net.queues).collect(),
        }
    }

    /// Bytes of memory that it boots with.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// Whether a VM of shape `own` can go on from this one.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, own: &Self) -> Result<(), String> {
        let differs = |key: &str, saved: &dyn std::fmt::Debug, own: &dyn std::fmt::Debug| {
            Err(format!("its VM has {key} {saved:?}, and the configuration says {own:?}"))
        };
        let Self { max_vcpus, memory_mib, hotplug_limit_mib, block_slots, fs_tag, nets } = self;
        if *max_vcpus != own.max_vcpus {
            return differs("max_vcpus", max_vcpus, &own.max_vcpus);
        }
        if *memory_mib != own.memory_mib {
            return differs("memory_mib", memory_mib, &own.memory_mib);
        }
        if *hotplug_limit_mib != own.hotplug_limit_mib {
            return differs("hotplug.limit_mib", hotplug_limit_mib, &own.hotplug_limit_mib);
        }
        if *block_slots != own.block_slots {
            return differs("block_slots", block_slots, &own.block_slots);
        }
        if *fs_tag != own.fs_tag {
            return differs("fs_tag", fs_tag, &own.fs_tag);
        }
        if *nets != own.nets {
            return differs("nets with numbers of queues of", nets, &own.nets);
        }
        Ok(())
    }
}

/// The 16550's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

impl From<SerialState> for Serial {
    fn from(state: SerialState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }
}

impl From<Serial> for SerialState {
    fn from(state: Serial) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }
}

/// All but the memory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// What VM it is.
    pub shape: Shape,
    /// Which memory belongs to it.
    pub memory_digest: MemoryDigest,
    /// What the host's CPUs and KVM can do.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// KVM's clock.
    pub clock: kvm_clock_data,
    /// Interrupt controllers.
    pub irq_chips: IrqChips,
    /// By number.
    pub vcpus: Vec<VcpuState>,
    /// In the order of their windows.
    pub devices: Vec<TransportState>,
    /// The console.
    pub serial: Serial,
}

impl State {
    /// Writes it to an empty file.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, to: &File) -> io::Result<()> {
        if to.metadata()?.len() != 0 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not empty"));
        }
        let content = serde_json::to_vec(self)?;
        to.write_all_at(&frame(&content)?, 0)?;
        to.sync_all()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn read(mut from: &File) -> Result<Self, StateError> {
        let mut bytes = Vec::new();
        from.by_ref().take((HEADER + MAX_CONTENT + 1) as u64).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(unframe(&bytes)?)?)
    }
}

/// The whole file with that content.
pub(super) fn frame(content: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(content.len()).ok().filter(|length| *length as usize <= MAX_CONTENT);
    let length = length.ok_or_else(|| io::Error::other("the state is too long"))?;
    let mut version = [0; VERSION_BYTES];
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    version[..own.len()].copy_from_slice(own);
    let mut file = Vec::with_capacity(HEADER + content.len());
    file.extend(MAGIC);
    file.extend(FORMAT.to_le_bytes());
    file.extend(length.to_le_bytes());
    file.extend(version);
    let sum = sum(&file, content);
    file.extend(sum);
    file.extend(content);
    Ok(file)
}

fn sum(header: &[u8], content: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(header).chain_update(content).finalize().into()
}

/// The content of a file.
pub(super) fn unframe(file: &[u8]) -> Result<&[u8], StateError> {
    let (header, content) = file.split_at_checked(HEADER).ok_or(StateError::Magic)?;
    let (before, stored) = header.split_at(SUM_AT);
    if before[..MAGIC.len()] != MAGIC {
        return Err(StateError::Magic);
    }
    let field = |at: usize| u32::from_le_bytes([before[at], before[at + 1], before[at + 2], before[at + 3]]);
    let found = field(8);
    if found != FORMAT {
        return Err(StateError::Format { found });
    }
    let version = before[16..].split(|byte| *byte == 0).next().unwrap_or_default();
    if version != env!("CARGO_PKG_VERSION").as_bytes() {
        return Err(StateError::Version { found: version.escape_ascii().to_string() });
    }
    let wanted = field(12) as usize;
    if wanted != content.len() || wanted > MAX_CONTENT {
        return Err(StateError::Length { wanted, found: content.len() });
    }
    if stored != sum(before, content) {
        return Err(StateError::Damaged);
    }
    Ok(content)
}

/// Whether vCPUs of a host that gives `own` can go on from those that saw `saved`.
///
/// # Errors
/// What differs.
pub fn check_cpuid(saved: &[kvm_cpuid_entry2], own: &[kvm_cpuid_entry2]) -> Result<(), String> {
    let of = |entries: &[kvm_cpuid_entry2], function, index| {
        entries.iter().find(|entry| (entry.function, entry.index) == (function, index)).copied()
    };
    for entry in saved.iter().chain(own) {
        if of(saved, entry.function, entry.index) != of(own, entry.function, entry.index) {
            return Err(format!(
                "it was made with other CPUs or another kernel: CPUID leaf {:#x}, index {}, differs",
                entry.function, entry.index
            ));
        }
    }
    Ok(())
}
