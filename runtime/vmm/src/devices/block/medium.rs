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

    /// Reads what is in the host's page cache, up to the first byte that would have to be waited for; how many bytes that
    /// was. Nothing of the kind can be had for writes: a file system that is frozen makes them wait whatever they say.
    pub fn read_at_once<'a>(&self, start: u64, bytes: usize, into: impl Buffers<'a>) -> usize {
        for part in self.parts(start, bytes) {
            let mut done = 0;
            while done < part.bytes {
                if !self.quick_reads.load(Ordering::Relaxed) {
                    return part.from + done;
                }
                let slices = into(part.from + done, part.bytes - done);
                match sys::read_at_once(part.file.as_fd(), &slices, part.at + done as u64) {
                    Ok(0) => {
                        slices.iter().for_each(fill_with_zeroes);
                        break;
                    }
                    Ok(got) => done += got,
                    Err(error) => {
                        if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                            self.quick_reads.store(false, Ordering::Relaxed);
                        }
                        return part.from + done;
                    }
                }
            }
        }
        bytes
    }

    /// Reads; what is past a file's end is zero.
    ///
    /// # Errors
    /// What the system says.
    pub fn read<'a>(&self, start: u64, bytes: usize, into: impl Buffers<'a>) -> io::Result<()> {
        for part in self.parts(start, bytes) {
            let mut done = 0;
            while done < part.bytes {
                let slices = into(part.from + done, part.bytes - done);
                match sys::read_at(part.file.as_fd(), &slices, part.at + done as u64) {
                    Ok(0) => {
                        slices.iter().for_each(fill_with_zeroes);
                        break;
                    }
                    Ok(got) => done += got,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Writes.
    ///
    /// # Errors
    /// What the system says.
    pub fn write<'a>(&self, start: u64, bytes: usize, from: impl Buffers<'a>) -> io::Result<()> {
        for part in self.parts(start, bytes) {
            let mut done = 0;
            while done < part.bytes {
                let slices = from(part.from + done, part.bytes - done);
                match sys::write_at(part.file.as_fd(), &slices, part.at + done as u64) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(put) => done += put,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
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

fn fill_with_zeroes(slice: &VolatileSlice<'_>) {
    let mut at = 0;
    while let Ok(rest) = slice.offset(at) {
        if rest.is_empty() {
            break;
        }
        rest.copy_from(&ZEROES[..]);
        at += rest.len().min(ZEROES.len());
    }
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
mod tests {
    use super::*;

    fn file(content: &[u8]) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file.into()
    }

    fn extent(fd: usize, offset: u64, length: u64) -> Extent {
        Extent { fd, offset, length }
    }

    fn read(medium: &Medium, start: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0xee; bytes];
        {
            let whole = VolatileSlice::from(&mut buffer[..]);
            medium.read(start, bytes, |at, bytes| vec![whole.subslice(at, bytes).unwrap()]).unwrap();
        }
        buffer
    }

    #[test]
    fn extents_become_one_disk_and_zeroes_follow_a_file() {
        let files = vec![file(&[1; 1024]), file(&[2; 700])];
        let extents = [extent(1, 512, 1024), extent(0, 0, 512), extent(0, 512, 512)];
        let medium = Medium::new(true, &extents, files).unwrap();
        assert_eq!(medium.sectors(), 4);
        let mut whole = vec![2; 700 - 512];
        whole.resize(1024, 0);
        whole.resize(2048, 1);
        assert_eq!(read(&medium, 0, 2048), whole);
        assert_eq!(read(&medium, 512, 1024), whole[512..1536]);
        let mut quick = vec![0xee; 2048];
        let slice = VolatileSlice::from(&mut quick[..]);
        let done = medium.read_at_once(0, 2048, |at, bytes| vec![slice.subslice(at, bytes).unwrap()]);
        // As far as the file system of the test's files can tell.
        assert_eq!(quick[..done], whole[..done]);
        assert!(quick[done..].iter().all(|byte| *byte == 0xee), "{done} of 2048 bytes");
        assert!(medium.contains(1536, 512) && !medium.contains(1536, 513) && !medium.contains(u64::MAX, 2));
    }

    #[test]
    fn writes_go_to_the_right_file() {
        let files = vec![file(&[0; 1024]), file(&[0; 512])];
        let copies: Vec<File> = files.iter().map(|file| file.try_clone().unwrap().into()).collect();
        let medium = Medium::new(false, &[extent(0, 512, 512), extent(1, 0, 1024)], files).unwrap();
        let mut data = vec![5; 1024];
        let whole = VolatileSlice::from(&mut data[..]);
        medium.write(256, 1024, |at, bytes| vec![whole.subslice(at, bytes).unwrap()]).unwrap();
        medium.flush().unwrap();
        let content = |file: &File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(content(&copies[0]), [vec![0; 768], vec![5; 256]].concat());
        assert_eq!(content(&copies[1]), vec![5; 768]);
        medium.zero(512, 512, false).unwrap();
        medium.zero(256, 256, true).unwrap();
        assert_eq!(read(&medium, 0, 1536), [vec![0; 1024], vec![5; 256], vec![0; 256]].concat());
        medium.discard(0, 1536).unwrap();
    }

    #[test]
    fn bad_media_are_refused() {
        let new = |extents: &[Extent]| Medium::new(true, extents, vec![file(&[0; 512])]).unwrap_err();
        assert!(matches!(new(&[]), MediumError::Empty));
        assert!(matches!(new(&[extent(1, 0, 512)]), MediumError::NoSuchFd { .. }));
        for (offset, length) in
            [(1, 512), (0, 100), (0, 0), (u64::MAX - 511, 512), (0, (i64::MAX as u64) - 511 + 512)]
        {
            assert!(
                matches!(new(&[extent(0, offset, length)]), MediumError::Range { .. }),
                "{offset} {length}"
            );
        }
        let half = extent(0, 0, 1 << 62);
        assert!(matches!(new(&[half.clone(), half.clone()]), MediumError::Range { extent: 1, .. }));
        let (pipe, _other) = std::io::pipe().unwrap();
        let error = Medium::new(true, &[extent(0, 0, 512)], vec![pipe.into()]).unwrap_err();
        assert!(matches!(error, MediumError::Kind(0)));
        let named = tempfile::NamedTempFile::new().unwrap();
        let error = Medium::new(false, &[extent(0, 0, 512)], vec![File::open(named.path()).unwrap().into()]);
        assert!(matches!(error.unwrap_err(), MediumError::Mode { fd: 0, .. }));
    }
}
