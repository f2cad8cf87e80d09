//! What is in a block slot: pieces of files that make up one disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use vm_memory::VolatileSlice;

use super::SECTOR;
use crate::control::Extent;
use crate::sys;

/// Why a medium cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// A disk of nothing cannot be told from no disk.
    #[error("a medium needs at least one extent")]
    Empty,
    /// [`Extent::fd`].
    #[error("extent {extent} names descriptor {fd}, but {sent} came with the request")]
    NoSuchFd {
        /// Index of the extent.
        extent: usize,
        /// Index of the descriptor.
        fd: usize,
        /// How many there are.
        sent: usize,
    },
    /// [`Extent::offset`] and [`Extent::length`].
    #[error(
        "extent {extent}: offset {offset} and length {length} must be multiples of {SECTOR}, the length \
         more than 0, and the medium's end below 2^63"
    )]
    Range {
        /// Index of the extent.
        extent: usize,
        /// Its offset.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// Not something that is read and written at positions.
    #[error("descriptor {0} is neither a regular file nor a block device")]
    Kind(usize),
    /// Opened in another way than it would be used.
    #[error("descriptor {fd} is not open for {need}")]
    Mode {
        /// Index of the descriptor.
        fd: usize,
        /// "reading", "reading and writing".
        need: &'static str,
    },
    /// A descriptor cannot be examined.
    #[error("descriptor {fd}: {source}")]
    Io {
        /// Index of the descriptor.
        fd: usize,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Debug)]
struct Piece {
    /// Where it is in the disk.
    start: u64,
    length: u64,
    file: usize,
    offset: u64,
}

/// A part of a request that lies within one piece.
struct Part<'a> {
    file: &'a File,
    /// Position in the file.
    at: u64,
    /// Bytes into the request.
    from: usize,
    bytes: usize,
}

/// A disk.
#[derive(Debug)]
pub struct Medium {
    files: Vec<File>,
    pieces: Vec<Piece>,
    bytes: u64,
    read_only: bool,
    /// Whether its file systems can tell what they can read without waiting: true until one has said that it cannot.
    quick_reads: AtomicBool,
}

/// Bytes are asked for by where they are in a request and how many they are.
pub trait Buffers<'a>: Fn(usize, usize) -> Vec<VolatileSlice<'a>> {}

impl<'a, F: Fn(usize, usize) -> Vec<VolatileSlice<'a>>> Buffers<'a> for F {}

impl Medium {
    /// Puts `extents` of `files` together.
    ///
    /// # Errors
    /// [`MediumError`].
    pub fn new(read_only: bool, extents: &[Extent], files: Vec<OwnedFd>) -> Result<Self, MediumError> {
        if extents.is_empty() {
            return Err(MediumError::Empty);
        }
        for (number, file) in files.iter().enumerate() {
            examine(number, file.as_fd(), read_only)?;
        }
        let mut pieces = Vec::with_capacity(extents.len());
        let mut bytes = 0_u64;
        for (number, extent) in extents.iter().enumerate() {
            let Extent { fd, offset, length } = *extent;
            if fd >= files.len() {
                return Err(MediumError::NoSuchFd { extent: number, fd, sent: files.len() });
            }
            let fits = |end: Option<u64>| end.filter(|end| i64::try_from(*end).is_ok());
            let aligned = offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR) && length > 0;
            match (fits(offset.checked_add(length)), fits(bytes.checked_add(length))) {
                (Some(_), Some(end)) if aligned => {
                    pieces.push(Piece { start: bytes, length, file: fd, offset });
                    bytes = end;
                }
                _ => return Err(MediumError::Range { extent: number, offset, length }),
            }
        }
        let files = files.into_iter().map(File::from).collect();
        Ok(Self { files, pieces, bytes, read_only, quick_reads: AtomicBool::new(true) })
    }

    /// Whose file systems cannot tell what they can read without waiting.
    #[cfg(test)]
    pub fn slow(self) -> Self {
        Self { quick_reads: AtomicBool::new(false), ..self }
    }

    /// Size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR
    }

    /// Whether it must not be written to.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether `bytes` bytes from `start` on are within the disk.
    pub fn contains(&self, start: u64, bytes: u64) -> bool {
        start.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }

    fn parts(&self, start: u64, bytes: usize) -> impl Iterator<Item = Part<'_>> {
        let first = self.pieces.partition_point(|piece| piece.start + piece.length <= start);
        let mut done = 0;
        self.pieces.iter().skip(first).map_while(move |piece| {
            let into = (start + done as u64).checked_sub(piece.start)?;
            let part = usize::try_from(piece.length - into).unwrap_or(usize::MAX).min(bytes - done);
            let from = done;
            done += part;
            let file = self.files.get(piece.file).filter(|_| part > 0)?;
            Some(Part { file, at: piece.offset + into, from, bytes: part })
        })
    }

    /// Has `call` move a request's bytes, some of one piece at a time, and `at_end` see to the rest of a piece of which it
    /// moves no more. Answers how many bytes are done, and why not all.
    fn transfer<'a>(
        &self,
        start: u64,
        bytes: usize,
        buffers: impl Buffers<'a>,
        call: impl Fn(BorrowedFd<'_>, &[VolatileSlice<'a>], u64) -> io::Result<usize>,
        at_end: impl Fn(&[VolatileSlice<'a>]) -> io::Result<()>,
    ) -> (usize, io::Result<()>) {
        for part in self.parts(start, bytes) {
            let mut done = 0;
            while done < part.bytes {
                let left = part.bytes - done;
                let slices = buffers(part.from + done, left);
                let moved = match call(part.file.as_fd(), &slices, part.at + done as u64) {
                    Ok(0) => at_end(&slices).map(|()| left),
                    moved => moved,
                };
                match moved {
                    Ok(moved) => done += moved,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return (part.from + done, Err(error)),
                }
            }
        }
        (bytes, Ok(()))
    }

    /// Reads what is in the host's page cache, up to the first byte that would have to be waited for; how many bytes that
    /// was. Nothing of the kind can be had for writes: a file system that is frozen makes them wait whatever they say.
    pub fn read_at_once<'a>(&self, start: u64, bytes: usize, into: impl Buffers<'a>) -> usize {
        if !self.quick_reads.load(Ordering::Relaxed) {
            return 0;
        }
        let (done, outcome) = self.transfer(start, bytes, into, sys::read_at_once, zeroes);
        if outcome.is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP)) {
            self.quick_reads.store(false, Ordering::Relaxed);
        }
        done
    }

    /// Reads; what is past a file's end is zero.
    ///
    /// # Errors
    /// What the system says.
    pub fn read<'a>(&self, start: u64, bytes: usize, into: impl Buffers<'a>) -> io::Result<()> {
        self.transfer(start, bytes, into, sys::read_at, zeroes).1
    }

    /// Writes.
    ///
    /// # Errors
    /// What the system says.
    pub fn write<'a>(&self, start: u64, bytes: usize, from: impl Buffers<'a>) -> io::Result<()> {
        self.transfer(start, bytes, from, sys::write_at, |_| Err(io::ErrorKind::WriteZero.into())).1
    }

    /// Returns when all writes are on the host's disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.files.iter().try_for_each(File::sync_data)
    }

    /// Gives the host its space back where the host can take it; the bytes may read as anything.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(&self, start: u64, bytes: usize) -> io::Result<()> {
        self.parts(start, bytes).try_for_each(|part| match punch(&part) {
            Err(error) if unsupported(&error) => Ok(()),
            result => result,
        })
    }

    /// Makes bytes zero, and gives the space back if `unmap`.
    ///
    /// # Errors
    /// What the system says.
    pub fn zero(&self, start: u64, bytes: usize, unmap: bool) -> io::Result<()> {
        for part in self.parts(start, bytes) {
            let quick = if unmap {
                punch(&part)
            } else {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                sys::fallocate(part.file.as_fd(), mode, part.at, part.bytes as u64)
            };
            match quick {
                Err(error) if unsupported(&error) => write_zeroes(&part)?,
                result => result?,
            }
        }
        Ok(())
    }
}

fn examine(number: usize, file: BorrowedFd<'_>, read_only: bool) -> Result<(), MediumError> {
    let failed = |error: rustix::io::Errno| MediumError::Io { fd: number, source: error.into() };
    let kind = FileType::from_raw_mode(fstat(file).map_err(failed)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return Err(MediumError::Kind(number));
    }
    let flags = fcntl_getfl(file).map_err(failed)?;
    let access = flags & OFlags::ACCMODE;
    let fits = access == OFlags::RDWR || (read_only && access == OFlags::RDONLY);
    if !fits || flags.contains(OFlags::PATH) {
        let need = if read_only { "reading" } else { "reading and writing" };
        return Err(MediumError::Mode { fd: number, need });
    }
    Ok(())
}

fn punch(part: &Part<'_>) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    sys::fallocate(part.file.as_fd(), mode, part.at, part.bytes as u64)
}

/// Whether the host cannot do it quickly here. A block device says `EINVAL` for what is no multiple of its own blocks,
/// which may be larger than the guest's sectors.
fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL))
}

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Of what is past a file's end.
fn zeroes(slices: &[VolatileSlice<'_>]) -> io::Result<()> {
    for slice in slices {
        let mut at = 0;
        while let Ok(rest) = slice.offset(at) {
            if rest.is_empty() {
                break;
            }
            rest.copy_from(&ZEROES[..]);
            at += rest.len().min(ZEROES.len());
        }
    }
    Ok(())
}

fn write_zeroes(part: &Part<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < part.bytes {
        let piece = ZEROES.len().min(part.bytes - done);
        part.file.write_all_at(&ZEROES[..piece], part.at + done as u64)?;
        done += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
