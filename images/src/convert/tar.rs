//! A reader of tar archives (POSIX ustar and pax, GNU) for hostile input.
//!
//! Where GNU tar, bsdtar, Python and Go read an archive differently, it is refused rather than guessed at: one
//! archive must not mean two things.

use super::error::{ConvertError, show};
use super::path::PATH_MAX;
use super::pax::Pax;
use super::sparse::{self, MapReader, Part, Records};
use super::stream::ArchiveStream;

const BLOCK: usize = 512;
/// Longest extended header. Attributes of 64 KiB and paths fit many times.
const EXTENDED_MAX: u64 = 1 << 20;

/// One entry's header, extended headers applied.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    /// Bytes of the file; 0 unless `kind` is `File`.
    pub(crate) size: u64,
    /// The parts of a sparse file, of which alone the contents consist.
    pub(crate) parts: Option<Vec<Part>>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Dir,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// Reads entries one after another; the caller takes each file's contents with [`TarReader::contents`].
pub(crate) struct TarReader<'a> {
    input: ArchiveStream<'a>,
    /// Contents of the current entry not yet read, and the padding after them.
    remaining: u64,
    padding: usize,
}

impl<'a> TarReader<'a> {
    pub(crate) fn new(input: ArchiveStream<'a>) -> Self {
        Self { input, remaining: 0, padding: 0 }
    }

    /// The next entry, or `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Header>, ConvertError> {
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            let Some(block) = self.header_block()? else {
                if extended {
                    return Err(ConvertError::malformed("the archive ends after an extended header"));
                }
                return Ok(None);
            };
            let raw_size = number(&block, 124, 12, "size")?;
            let size = u64::try_from(raw_size).map_err(|_| ConvertError::malformed("negative size"))?;
            match block[156] {
                b'x' => {
                    if !pax.is_empty() {
                        return Err(ConvertError::malformed("two PAX headers for one entry"));
                    }
                    pax = Pax::parse(&self.extended(size)?)?;
                }
                b'g' => {
                    if !Pax::parse(&self.extended(size)?)?.is_empty() {
                        let what = "the archive has a global PAX header that changes entries";
                        return Err(ConvertError::Unsupported(what.into()));
                    }
                }
                b'L' => set_once(&mut long_path, until_nul(&self.extended(size)?).to_vec())?,
                b'K' => set_once(&mut long_link, until_nul(&self.extended(size)?).to_vec())?,
                // A volume's label: no file.
                b'V' => {
                    self.set_contents(size);
                    self.skip()?;
                    continue;
                }
                _ => return self.entry(&block, size, pax, long_path, long_link).map(Some),
            }
            extended |= block[156] != b'g';
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Header, ConvertError> {
        let name = pax.sparse.as_mut().and_then(|sparse| sparse.name.take());
        let path = name.or(agree(pax.path, long_path)?).unwrap_or_else(|| short_path(block));
        let link = agree(pax.linkpath, long_link)?.unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        let size = pax.size.unwrap_or(size);
        let kind = match block[156] {
            b'0' | b'7' | 0 if path.ends_with(b"/") => EntryKind::Dir,
            b'0' | b'7' | 0 => EntryKind::File,
            b'1' => EntryKind::Hardlink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            b'S' => EntryKind::File,
            other => {
                let what = format!("{} has the type {:?}", show(&path), char::from(other));
                return Err(ConvertError::Unsupported(what));
            }
        };
        let named = |error: ConvertError| error.of(&path);
        let mut parts = None;
        let mut whole = size;
        if kind == EntryKind::File {
            let sparse = match pax.sparse {
                Some(_) if block[156] == b'S' => {
                    return Err(named(ConvertError::malformed("a sparse file of two formats")));
                }
                Some(records) => Some(self.recorded_map(records, size).map_err(named)?),
                None if block[156] == b'S' => Some(self.old_map(block, size).map_err(named)?),
                None => None,
            };
            match sparse {
                Some((real, map)) => {
                    whole = real;
                    parts = Some(sparse::parts(&map, real, self.remaining).map_err(named)?);
                }
                None => self.set_contents(size),
            }
        } else if pax.sparse.is_some() {
            return Err(named(ConvertError::malformed("it is sparse but no file")));
        } else if size != 0 && kind != EntryKind::Hardlink {
            // All readers skip no contents for a hard link; on the others they disagree.
            return Err(ConvertError::malformed(format!("{} has a size but no contents", show(&path))));
        }
        let id = |field: Option<u64>, offset, name: &str| {
            let value = match field {
                Some(value) => i64::try_from(value).ok(),
                None => Some(number(block, offset, 8, name)?),
            };
            value
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| ConvertError::malformed(format!("{name} is out of range")))
        };
        let device = |offset| -> Result<u32, ConvertError> {
            if !matches!(kind, EntryKind::Char | EntryKind::Block) {
                return Ok(0);
            }
            u32::try_from(number(block, offset, 8, "device number")?)
                .map_err(|_| ConvertError::malformed("a device number is out of range"))
        };
        let mode = number(block, 100, 8, "mode").map_err(named)? & 0o7777;
        Ok(Header {
            kind,
            mode: u16::try_from(mode).unwrap_or(0),
            uid: id(pax.uid, 108, "uid").map_err(named)?,
            gid: id(pax.gid, 116, "gid").map_err(named)?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (number(block, 136, 12, "mtime").map_err(named)?, 0),
            },
            size: if kind == EntryKind::File { whole } else { 0 },
            parts,
            device: (device(329)?, device(337)?),
            xattrs: pax.xattrs,
            path,
            link,
        })
    }

    /// The size and map of a file that PAX records call sparse; its contents of `packed` bytes are next.
    fn recorded_map(&mut self, records: Records, packed: u64) -> Result<(u64, Vec<u64>), ConvertError> {
        self.set_contents(packed);
        let in_contents = records.map_in_contents()?;
        let (size, numbers) = records.into_map()?;
        if !in_contents {
            return Ok((size, numbers));
        }
        let mut map = MapReader::default();
        let mut block = [0; BLOCK];
        loop {
            let mut filled = 0;
            while filled < BLOCK {
                match self.contents(&mut block[filled..])? {
                    0 => return Err(ConvertError::malformed("a sparse file's map has no end")),
                    n => filled += n,
                }
            }
            if map.take(&block)? {
                return Ok((size, map.into_numbers()));
            }
        }
    }

    /// The size and map of a sparse file in the old format, which begins in its header.
    fn old_map(&mut self, header: &[u8; BLOCK], packed: u64) -> Result<(u64, Vec<u64>), ConvertError> {
        let unsigned = |block: &[u8; BLOCK], at| {
            let value = number(block, at, 12, "sparse map")?;
            u64::try_from(value).map_err(|_| ConvertError::malformed("a sparse map has a negative number"))
        };
        let size = unsigned(header, 483)?;
        let mut numbers = Vec::new();
        let (mut block, mut start, mut entries) = (*header, 386, 4);
        loop {
            // The first entry without a length's digits ends the map.
            for at in (start..).step_by(24).take(entries).take_while(|at| block[at + 12] != 0) {
                numbers.extend([unsigned(&block, at)?, unsigned(&block, at + 12)?]);
            }
            let extended = block[if start == 0 { 504 } else { 482 }] != 0;
            if !extended {
                break;
            }
            if numbers.len() > 2 * sparse::PARTS_MAX {
                return Err(sparse::too_many());
            }
            if !self.input.read_exact(&mut block)? {
                return Err(ConvertError::malformed("a sparse map has no end"));
            }
            (start, entries) = (0, 21);
        }
        self.set_contents(packed);
        Ok((size, numbers))
    }

    /// Contents of the current file into `buffer`; 0 at their end.
    pub(crate) fn contents(&mut self, buffer: &mut [u8]) -> Result<usize, ConvertError> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(ConvertError::malformed("the archive ends in the middle of a file"));
        }
        self.remaining -= n as u64;
        Ok(n)
    }

    /// Where the current file's contents go on, in bytes from the archive's beginning.
    pub(crate) fn position(&self) -> u64 {
        self.input.position()
    }

    /// Reads to the stream's end.
    pub(crate) fn finish(self) -> Result<(), ConvertError> {
        self.input.finish()
    }

    fn set_contents(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    fn skip(&mut self) -> Result<(), ConvertError> {
        let mut scratch = [0; 8192];
        while self.contents(&mut scratch)? != 0 {}
        let padding = std::mem::take(&mut self.padding);
        if padding != 0 && !self.input.read_exact(&mut scratch[..padding])? {
            return Err(ConvertError::malformed("the archive ends in the middle of a file"));
        }
        Ok(())
    }

    fn extended(&mut self, size: u64) -> Result<Vec<u8>, ConvertError> {
        if size > EXTENDED_MAX {
            return Err(ConvertError::TooLarge(format!("an extended header of {size} bytes in the archive")));
        }
        self.set_contents(size);
        let mut body = vec![0; size as usize];
        let mut filled = 0;
        while filled < body.len() {
            filled += self.contents(&mut body[filled..])?;
        }
        self.skip()?;
        Ok(body)
    }

    /// The next header with a valid checksum. One block of zeros, or the stream's end, ends the archive;
    /// a header hidden behind a single block of zeros is refused, as some readers would go on to it.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, ConvertError> {
        self.skip()?;
        let mut block = [0; BLOCK];
        if !self.input.read_exact(&mut block)? {
            return Ok(None);
        }
        if block.iter().all(|byte| *byte == 0) {
            if self.input.read_exact(&mut block)? && block.iter().any(|byte| *byte != 0) {
                return Err(ConvertError::malformed("the archive goes on after a block of zeros"));
            }
            return Ok(None);
        }
        let stated = number(&block, 148, 8, "checksum")?;
        let sum = |signed: bool| -> i64 {
            let bytes = block.iter().enumerate();
            bytes
                .map(|(at, byte)| match at {
                    148..156 => i64::from(b' '),
                    _ if signed => i64::from(*byte as i8),
                    _ => i64::from(*byte),
                })
                .sum()
        };
        if stated != sum(false) && stated != sum(true) {
            return Err(ConvertError::malformed(
                "a header's checksum is wrong: this is no tar archive, or damaged",
            ));
        }
        Ok(Some(block))
    }
}

/// Two ways to give one name must give the same.
fn agree(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, ConvertError> {
    match (pax, gnu) {
        (Some(a), Some(b)) if a != b => {
            Err(ConvertError::malformed(format!("an entry has two names, {} and {}", show(&a), show(&b))))
        }
        (a, b) => Ok(a.or(b)),
    }
}

fn set_once(slot: &mut Option<Vec<u8>>, value: Vec<u8>) -> Result<(), ConvertError> {
    if slot.replace(value).is_some() {
        return Err(ConvertError::malformed("an entry has two GNU long names"));
    }
    Ok(())
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The header's own name, with POSIX ustar's prefix.
fn short_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(PATH_MAX.min(prefix.len() + 1 + name.len()));
    path.extend_from_slice(prefix);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// A numeric field: octal digits, or GNU's base-256 where the first byte is 0x80 (or 0xff, negative).
fn number(block: &[u8; BLOCK], offset: usize, length: usize, name: &str) -> Result<i64, ConvertError> {
    let field = &block[offset..offset + length];
    let bad = || ConvertError::malformed(format!("the header field {name} is invalid: {}", show(field)));
    if matches!(field[0], 0x80 | 0xff) {
        let start = if field[0] == 0xff { -1_i64 } else { 0 };
        return field[1..].iter().try_fold(start, |value, byte| {
            value.checked_mul(256).and_then(|v| v.checked_add(i64::from(*byte))).ok_or_else(bad)
        });
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(length);
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) {
        return Err(bad());
    }
    digits[..end].iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8).and_then(|v| v.checked_add((byte - b'0').into())).ok_or_else(bad),
        _ => Err(bad()),
    })
}
