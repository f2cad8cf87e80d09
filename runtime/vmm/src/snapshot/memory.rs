//! The memory file: the guest's memory from its beginning, holes for zeroes, and behind it a page that says whose it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

/// Bytes of a page, the least that is written.
pub const PAGE: usize = crate::written::PAGE as usize;
/// Bytes read at once.
const CHUNK: usize = 64 * PAGE;
/// What the last page begins with; the digest follows.
const MAGIC: [u8; 8] = *b"HUSKMEM\x01";
/// SHA-256.
pub type MemoryDigest = [u8; 32];

/// Calls `each` with the offset and the bytes of every page of `chunk` that is not zero; the chunk begins at `offset`.
fn pages(chunk: &[u8], offset: u64, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    for (page, at) in chunk.chunks(PAGE).zip((offset..).step_by(PAGE)) {
        if page.iter().any(|byte| *byte != 0) {
            each(at, page)?;
        }
    }
    Ok(())
}

/// The same of all of `memory`, the offset being that of the bytes in front.
fn pages_of_memory(
    memory: &GuestMemoryMmap,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    for region in memory.iter() {
        let mut address = 0;
        while address < region.len() {
            let room = buffer.len().min(usize::try_from(region.len() - address).unwrap_or(usize::MAX));
            let chunk = &mut buffer[..room];
            region.read_slice(chunk, MemoryRegionAddress(address)).map_err(io::Error::other)?;
            pages(chunk, offset + address, &mut each)?;
            address += room as u64;
        }
        offset += region.len();
    }
    Ok(())
}

/// The same of the first `bytes` bytes of `file`.
fn pages_of_file(
    file: &File,
    bytes: u64,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < bytes {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start - start % PAGE as u64,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start.max(offset)))?.min(bytes);
        offset = start;
        while offset < end {
            let room = buffer.len().min(usize::try_from(bytes - offset).unwrap_or(usize::MAX));
            let chunk = &mut buffer[..room];
            file.read_exact_at(chunk, offset)?;
            pages(chunk, offset, &mut each)?;
            offset += room as u64;
        }
    }
    Ok(())
}

struct Sum(Sha256);

impl Sum {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn page(&mut self, offset: u64, page: &[u8]) {
        self.0.update(offset.to_le_bytes());
        self.0.update(page);
    }

    fn done(self) -> MemoryDigest {
        self.0.finalize().into()
    }
}

/// Writes `memory`, all that the guest has, to the empty file `to`; answers its digest.
///
/// # Errors
/// What the system says.
pub fn write(memory: &GuestMemoryMmap, to: &File) -> io::Result<MemoryDigest> {
    if to.metadata()?.len() != 0 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not empty"));
    }
    let bytes = memory.iter().map(GuestMemoryRegion::len).sum();
    to.set_len(bytes)?;
    let mut sum = Sum::new();
    pages_of_memory(memory, |offset, page| {
        sum.page(offset, page);
        to.write_all_at(page, offset)
    })?;
    let digest = sum.done();
    let mut last = vec![0; PAGE];
    last[..MAGIC.len()].copy_from_slice(&MAGIC);
    last[MAGIC.len()..][..digest.len()].copy_from_slice(&digest);
    to.write_all_at(&last, bytes)?;
    to.sync_all()?;
    Ok(digest)
}

/// Checks that `file` is the memory of `bytes` bytes with that digest; with `verify` by reading all of it.
///
/// # Errors
/// What is wrong, for a person.
pub fn check(file: &File, bytes: u64, digest: &MemoryDigest, verify: bool) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let length = file.metadata().map_err(failed)?.len();
    let whole = bytes + PAGE as u64;
    if length != whole {
        return Err(format!(
            "it is {length} bytes long, and should be {whole}: it is cut short or another VM's"
        ));
    }
    let mut last = [0; MAGIC.len() + size_of::<MemoryDigest>()];
    file.read_exact_at(&mut last, bytes).map_err(failed)?;
    let (magic, own) = last.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("it is not the memory of a snapshot".to_owned());
    }
    if own != digest {
        return Err("it belongs to another state".to_owned());
    }
    if verify {
        let mut sum = Sum::new();
        pages_of_file(file, bytes, |offset, page| {
            sum.page(offset, page);
            Ok(())
        })
        .map_err(failed)?;
        if sum.done() != *digest {
            return Err("it is damaged: its checksum differs".to_owned());
        }
    }
    Ok(())
}
