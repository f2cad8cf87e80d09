//! Snapshots: an idle VM is written to two files, and clones go on from them.
//!
//! The *state file* has the registers of KVM and of the devices, checked by a digest and by what a VM of this
//! configuration, host and version can have ([`state`]). The *memory file* has the guest's memory as it is, page for
//! page, with holes where there are zeroes ([`memory`]); clones map it copy-on-write, so that they share in the host's
//! page cache what they do not change.
//!
//! What a snapshot cannot hold it refuses: media, file system servers, plugged memory, open vsock connections.

mod memory;
mod state;
mod vcpu;
mod vm;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;

use crate::config::{RestoreConfig, VmConfig};
use crate::mmio_bus::MmioBus;
use crate::pio::Ports;
use crate::virtio::{RestoreError, SaveError};
use crate::written::Written;
use state::{Shape, State, StateError};
use vcpu::VcpuState;
use vm::IrqChips;

/// What the list of pages is called.
const WRITTEN: &str = "list of written pages";

/// Why there is no snapshot, or no clone of one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A device is not idle.
    #[error("the VM cannot be saved: virtio device {index}: {source}")]
    Device {
        /// Number of its window.
        index: usize,
        /// What it has in hand.
        source: SaveError,
    },
    /// Its memory is in two places.
    #[error("a clone cannot be saved; save the VM that it was made of, or boot one anew")]
    Clone,
    /// It has not what it takes.
    #[error("the VM cannot be saved: it was not started to be (savable)")]
    NotSavable,
    /// A file that is written.
    #[error("writing the snapshot's {what}: {source}")]
    Write {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is read.
    #[error("the snapshot's {what} {path}: {source}", path = path.display())]
    Read {
        /// Which.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state file is not usable here.
    #[error("the snapshot's state {path}: {source}", path = path.display())]
    State {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
    /// The memory file is not usable.
    #[error("the snapshot's memory {path}: {why}", path = path.display())]
    Memory {
        /// Its path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The state does not fit this host or this machine.
    #[error("the snapshot does not fit: {0}")]
    Foreign(String),
    /// KVM.
    #[error("{what}: KVM: {source}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// A device does not go on.
    #[error("the snapshot's virtio device {index}: {source}")]
    Restore {
        /// Number of its window.
        index: usize,
        /// Why.
        source: RestoreError,
    },
}

impl SnapshotError {
    fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { what, source }
    }
}

/// What has to be known of a VM to save it.
pub struct Saver {
    /// The VM.
    pub vm: Arc<VmFd>,
    /// CPUID before the vCPUs' numbers are put in.
    pub cpuid: CpuId,
    /// Model-specific registers that KVM knows of.
    pub msrs: Vec<u32>,
    /// The devices.
    pub mmio: Arc<MmioBus>,
    /// The console's.
    pub ports: Arc<Ports>,
    /// What the guest has booted with; none for a clone.
    pub memory: Option<Arc<GuestMemoryMmap>>,
    /// What the VM is.
    pub shape: Shape,
    /// Whether it may be saved.
    pub savable: bool,
}

impl Saver {
    /// What it takes to save a VM of `config`.
    pub fn shape(config: &VmConfig) -> Shape {
        Shape::of(config)
    }

    /// Saves the VM, whose vCPUs stand still.
    ///
    /// # Errors
    /// [`SnapshotError`]; the VM can go on, and what has been written is of no use.
    pub fn save<'a>(
        &self,
        vcpus: impl Iterator<Item = impl std::ops::Deref<Target = VcpuFd> + 'a>,
        state_file: OwnedFd,
        memory_file: OwnedFd,
    ) -> Result<(), SnapshotError> {
        let memory = self.memory.as_ref().ok_or(SnapshotError::Clone)?;
        if !self.savable {
            return Err(SnapshotError::NotSavable);
        }
        // First the devices: what they had in hand may interrupt a vCPU.
        let devices = self.mmio.save()?;
        let irq_chips = IrqChips::save(&self.vm)?;
        let vcpus = vcpus.map(|vcpu| VcpuState::save(&vcpu, &self.msrs)).collect::<Result<Vec<_>, _>>()?;
        let clock = self.vm.get_clock().map_err(SnapshotError::kvm("reading the clock"))?;
        let digest = memory::write(memory, &File::from(memory_file))
            .map_err(|source| SnapshotError::Write { what: "memory", source })?;
        let state = State {
            shape: self.shape.clone(),
            memory_digest: digest,
            cpuid: self.cpuid.as_slice().to_vec(),
            clock,
            irq_chips,
            vcpus,
            devices,
            serial: self.ports.save().into(),
        };
        state.write(&File::from(state_file)).map_err(|source| SnapshotError::Write { what: "state", source })
    }
}

/// A snapshot's files, open and not looked into yet.
pub struct SnapshotFiles {
    state: File,
    memory: File,
    written: Option<File>,
    restore: RestoreConfig,
}

impl SnapshotFiles {
    /// Opens them.
    ///
    /// # Errors
    /// [`SnapshotError::Read`]
    pub fn open(restore: &RestoreConfig) -> Result<Self, SnapshotError> {
        let open = |what, path: &PathBuf| {
            File::open(path).map_err(|source| SnapshotError::Read { what, path: path.clone(), source })
        };
        Ok(Self {
            state: open("state", &restore.state)?,
            memory: open("memory", &restore.memory)?,
            written: restore.written.as_ref().map(|path| open(WRITTEN, path)).transpose()?,
            restore: restore.clone(),
        })
    }
}

/// A snapshot from which a VM goes on.
pub struct Snapshot {
    state: State,
    memory: File,
    memory_path: PathBuf,
    /// What its clones write to at once, as far as that is known.
    pub written: Written,
}

impl Snapshot {
    /// Reads and checks the files, of a VM like that of `config`.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn read(files: SnapshotFiles, config: &VmConfig) -> Result<Self, SnapshotError> {
        let SnapshotFiles {
            state,
            memory,
            written,
            restore: RestoreConfig { state: path, memory: memory_path, verify, written: written_path },
        } = files;
        let state = State::read(&state).map_err(|source| SnapshotError::State { path, source })?;
        state.shape.check(&Shape::of(config)).map_err(SnapshotError::Foreign)?;
        memory::check(&memory, state.shape.memory_bytes(), &state.memory_digest, verify)
            .map_err(|why| SnapshotError::Memory { path: memory_path.clone(), why })?;
        let written = match written.zip(written_path) {
            Some((file, path)) => Written::read(&file, state.shape.memory_bytes())
                .map_err(|source| SnapshotError::Read { what: WRITTEN, path, source })?,
            None => Written::default(),
        };
        Ok(Self { state, memory, memory_path, written })
    }

    /// The guest's memory.
    ///
    /// # Errors
    /// [`SnapshotError::Read`] when there are no descriptors left.
    pub fn memory(&self) -> Result<File, SnapshotError> {
        let read = |source| SnapshotError::Read { what: "memory", path: self.memory_path.clone(), source };
        self.memory.try_clone().map_err(read)
    }

    /// The console's registers.
    pub fn serial(&self) -> vm_superio::serial::SerialState {
        self.state.serial.clone().into()
    }

    /// Gives a VM that has not run yet its state: first KVM's, then the devices', which may go to work at once.
    ///
    /// # Errors
    /// [`SnapshotError`]; the VM must not run then.
    pub fn apply(
        &self,
        vm: &VmFd,
        cpuid: &CpuId,
        vcpus: &[VcpuFd],
        mmio: &MmioBus,
    ) -> Result<(), SnapshotError> {
        state::check_cpuid(&self.state.cpuid, cpuid.as_slice()).map_err(SnapshotError::Foreign)?;
        if self.state.vcpus.len() != vcpus.len() {
            let (saved, own) = (self.state.vcpus.len(), vcpus.len());
            return Err(SnapshotError::Foreign(format!("it has {saved} vCPUs, and this VM {own}")));
        }
        self.state.irq_chips.restore(vm)?;
        vcpu::restore(vm, vcpus, &self.state.vcpus)?;
        // What the clock says of the host's is no part of it.
        let clock = kvm_bindings::kvm_clock_data { clock: self.state.clock.clock, ..Default::default() };
        vm.set_clock(&clock).map_err(SnapshotError::kvm("setting the clock"))?;
        mmio.restore(&self.state.devices)
    }
}
