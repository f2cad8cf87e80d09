//! A reader of qcow2 for the conversion worker (QEMU's docs/interop/qcow2.txt).
//!
//! The worker has file descriptors and a handful of system calls: no path, no thread, no event loop. The crates
//! that read qcow2 (qcow2-rs, imago) open files by name or read through an asynchronous runtime, so that neither
//! runs there; qcow2-rs also switches off the logging of whatever it is linked with. What the worker needs is
//! little: it goes through an image once, in the order of its tables.
//!
//! What an image says of other files (backing file, external data) is refused before anything of it is read, and
//! so is every feature that is not known here. Snapshots within the image are left out. Reference counts are
//! not read: nothing is written to the image, and what they should prevent, two uses of one cluster, is checked
//! by the tables themselves.
//!
//! Memory is bounded by a few clusters, of 2 MiB at most, and a bit for each cluster of the file; time by the
//! file's length, because no table is read twice, and by the budget on what comes out.

mod claims;
mod header;
mod read;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::sparse;
use crate::convert::{ConvertError, Limits};

pub use header::Header;
pub use read::Qcow2;

/// What every image begins with.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Where an image's bytes come from.
pub trait ReadAt {
    /// Bytes at `offset` into `buffer`; 0 only at the end.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Bytes in all.
    fn length(&self) -> u64;

    /// Fills `buffer` from `offset` on as far as there are bytes, and gives their number.
    ///
    /// # Errors
    /// The system's.
    fn fill_from(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn length(&self) -> u64 {
        self.len() as u64
    }
}

/// A piece of a file.
#[derive(Debug)]
pub struct FilePiece<'a> {
    /// The file.
    pub file: &'a File,
    /// Where the piece begins, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

impl ReadAt for FilePiece<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n = buffer.len().min(left);
        let at = self.offset.checked_add(offset).ok_or(io::ErrorKind::InvalidInput)?;
        self.file.read_at(&mut buffer[..n], at)
    }

    fn length(&self) -> u64 {
        self.length
    }
}

/// Writes the disk in the image `source` to `disk`, which must be empty, without blocks of zeroes. Returns the
/// disk's bytes, a multiple of 512; the file may be shorter, and the rest is zero.
///
/// # Errors
/// [`ConvertError`] for bytes that are no acceptable image, budgets, and I/O. The file is then unfit.
pub fn convert_qcow2(
    source: &(impl ReadAt + ?Sized),
    disk: &File,
    limits: &Limits,
) -> Result<u64, ConvertError> {
    let mut image = Qcow2::open(source, limits)?;
    image.each_cluster(|offset, bytes| {
        sparse::write_at(disk, bytes, offset).map_err(|e| ConvertError::io("writing a disk", &e))
    })?;
    Ok(image.header().size.next_multiple_of(super::SECTOR))
}
