//! The memory that is shared with the server: rings, and buffers through which requests and answers pass. Nothing else
//! of this process or of the guest is in it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::QUEUE_SIZES;
use super::pages::{PAGE_BYTES, Pages, Place};
use super::shadow::RING_BYTES;

/// Bytes of all buffers: a few of the largest requests that Linux makes (1 MiB of data) at a time.
const BUFFER_BYTES: u64 = 4 << 20;
/// Where buffers begin.
const BUFFERS: u64 = QUEUE_SIZES.len() as u64 * RING_BYTES;

/// The memory, at addresses from 0 on.
pub struct Bounce {
    file: Arc<File>,
    memory: GuestMemoryMmap,
    pages: Pages,
}

impl Bounce {
    /// Fresh memory, which costs the host nothing until it is used.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let bytes = BUFFERS + BUFFER_BYTES;
        let file = File::from(memfd_create("volumes", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.set_len(bytes)?;
        // The server could end this process by a page that is gone.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = Arc::new(file);
        let place = FileOffset::from_arc(Arc::clone(&file), 0);
        let ranges = [(GuestAddress(0), bytes as usize, Some(place))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).map_err(io::Error::other)?;
        Ok(Self { file, memory, pages: Pages::new((BUFFER_BYTES / PAGE_BYTES) as usize) })
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its bytes, rings and all.
    pub fn bytes(&self) -> u64 {
        BUFFERS + BUFFER_BYTES
    }

    /// All of it.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// A buffer of `bytes` bytes; `None` when there is no room now.
    pub fn take(&mut self, bytes: usize) -> Option<Place> {
        self.pages.take(bytes)
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, place: Place) {
        self.pages.give_back(place);
    }

    /// Address of a byte of a buffer.
    pub fn address(place: &Place, offset: usize) -> u64 {
        BUFFERS + place.offset() + offset as u64
    }

    /// `bytes` bytes from an address of a buffer on; none if they are not all in this memory.
    pub fn slice(&self, address: u64, bytes: usize) -> Option<VolatileSlice<'_>> {
        // The memory is one region, so there is one slice.
        GuestMemory::get_slices(&self.memory, GuestAddress(address), bytes, Permissions::ReadWrite)
            .ok()?
            .next()?
            .ok()
            .filter(|slice| slice.len() == bytes)
    }
}
