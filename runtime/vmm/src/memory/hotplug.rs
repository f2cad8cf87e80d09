//! Memory that comes and goes while the guest runs: a region of guest addresses in slots, each of which is the
//! guest's to touch or is not there at all, for its CPUs as for its devices.

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use kvm_ioctls::VmFd;
use vm_memory::mmap::FromRangesError;
use vm_memory::{
    Address, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use super::{Memory, Ram, map};
use crate::config::HOTPLUG_SLOT_MIB;
use crate::layout;
use crate::sys::{self, Mapped};

/// Bytes of a slot: what Linux on x86 adds to itself and takes off again as one (`SECTION_SIZE_BITS`).
pub const SLOT_BYTES: u64 = (HOTPLUG_SLOT_MIB as u64) << 20;

/// Guest addresses of the region begin at a multiple of it, for the largest pages there are.
const ALIGNMENT: u64 = 1 << 30;

/// Why a slot did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum HotplugError {
    /// No address space left, most likely.
    #[error("mapping a slot of guest memory: {0}")]
    Map(#[from] FromRangesError),
    /// KVM refused.
    #[error("KVM refused a slot of guest memory: {0}")]
    Kvm(#[from] kvm_ioctls::Error),
    /// The slots would not fit together.
    #[error("the guest's memory would overlap")]
    Overlap,
    /// The host did not take pages back.
    #[error("giving memory back to the host: {0}")]
    Discard(#[from] std::io::Error),
}

/// The region. It starts without any slot.
pub struct Region {
    vm: Arc<VmFd>,
    memory: Memory,
    huge_pages: bool,
    start: u64,
    /// The memslot of the first slot; the others' follow.
    first_memslot: u32,
    /// Mapped when first opened, and again and again from then on.
    slots: Vec<Option<Mapped>>,
    open: Vec<bool>,
}

impl Region {
    /// The region behind `ram`, of `bytes` bytes, a multiple of [`SLOT_BYTES`].
    pub fn new(ram: &Ram, vm: Arc<VmFd>, bytes: u64) -> Self {
        let memory = ram.memory.clone();
        let end = memory.memory().last_addr().raw_value() + 1;
        let slots = (bytes / SLOT_BYTES) as usize;
        Self {
            vm,
            huge_pages: ram.huge_pages,
            start: end.max(layout::HIGH_MEMORY).next_multiple_of(ALIGNMENT),
            first_memslot: ram.boot.len() as u32,
            slots: vec![None; slots],
            open: vec![false; slots],
            memory,
        }
    }

    /// Its first guest address.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.slots.len() as u64 * SLOT_BYTES
    }

    /// Lets the guest have slot `number`; nothing changes if it has it.
    ///
    /// # Errors
    /// [`HotplugError`]; the guest has it not then.
    pub fn open(&mut self, number: usize) -> Result<(), HotplugError> {
        let (Some(slot), Some(false)) = (self.slots.get_mut(number), self.open.get(number)) else {
            return Ok(());
        };
        let mapped = match slot {
            Some(mapped) => mapped.clone(),
            None => {
                let start = GuestAddress(self.start + number as u64 * SLOT_BYTES);
                slot.insert(map(start, SLOT_BYTES as usize, self.huge_pages)?).clone()
            }
        };
        let before = self.memory.memory().into_inner();
        let after = before.insert_region(Arc::clone(mapped.region())).map_err(|_| HotplugError::Overlap)?;
        mapped.give(&self.vm, self.first_memslot + number as u32)?;
        self.replace(after);
        self.open[number] = true;
        Ok(())
    }

    /// Takes slot `number` from the guest; nothing changes if it has it not.
    ///
    /// # Errors
    /// [`HotplugError`]; the guest has it still then.
    pub fn close(&mut self, number: usize) -> Result<(), HotplugError> {
        let (Some(Some(mapped)), Some(true)) = (self.slots.get(number), self.open.get(number)) else {
            return Ok(());
        };
        let before = self.memory.memory().into_inner();
        let region = mapped.region();
        let (after, _) =
            before.remove_region(region.start_addr(), region.len()).map_err(|_| HotplugError::Overlap)?;
        mapped.take(&self.vm, self.first_memslot + number as u32)?;
        self.replace(after);
        self.open[number] = false;
        Ok(())
    }

    fn replace(&self, memory: GuestMemoryMmap) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(memory);
    }

    /// Gives the host back the pages of a range of the region; they read as zeroes then.
    ///
    /// # Errors
    /// [`HotplugError::Discard`].
    pub fn discard(&self, range: Range<u64>) -> Result<(), HotplugError> {
        for (mapped, start) in self.slots.iter().zip((0..).step_by(SLOT_BYTES as usize)) {
            // What was never mapped has no pages.
            let Some(mapped) = mapped else { continue };
            let part = range.start.max(start)..range.end.min(start + SLOT_BYTES);
            if part.is_empty() {
                continue;
            }
            let at = MemoryRegionAddress(part.start - start);
            let slice = mapped.region().get_slice(at, (part.end - part.start) as usize);
            sys::discard(&slice.map_err(io::Error::other)?)?;
        }
        Ok(())
    }
}
