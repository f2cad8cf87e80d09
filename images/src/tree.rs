//! The `tree` file of a layer: its entries' metadata in the archive's order, without contents.
//!
//! The conversion worker writes it and the merge reads it. The worker is not trusted, so the reader checks
//! everything again.

use std::io::{self, Read, Write};

use crate::convert::error::{ConvertError, show};
use crate::convert::path;

const MAGIC: &[u8; 8] = b"HUSKTRE1";
const END: u8 = 0xff;
/// Bytes of extended attributes (names and values) of one entry: EROFS counts them in 4-byte units in 16
/// bits, and Linux caps one value at 64 KiB.
pub(crate) const XATTRS_MAX: usize = 64 << 10;

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the image's root, normalised; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, at most 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of `mtime`, below 10⁹.
    pub mtime_nsec: u32,
    /// Extended attributes, sorted.
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, contiguous in the layer's data.
    File {
        /// Byte offset in the layer's data, a multiple of 4096; 0 for an empty file.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link with its target, as given.
    Symlink(Vec<u8>),
    /// A hard link to the entry of that normalised path, to which it gives its metadata.
    Hardlink(Vec<u8>),
    /// A character device's major and minor number.
    Char(u32, u32),
    /// A block device's major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// What lower layers have at `path` is gone.
    Whiteout,
    /// What lower layers have in the directory `path` is gone.
    Opaque,
}

/// An extended attribute, its name split as EROFS has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// EROFS's number of the name's prefix, see [`Xattr::parse`].
    pub prefix: u8,
    /// The name after its prefix.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Xattr {
    /// Splits `name`; `None` for one that must not or cannot reach an image: `trusted.*` and
    /// `user.overlay.*` would steer the guest's overlayfs, other namespaces mean nothing to the guest.
    pub fn parse(name: &[u8], value: &[u8]) -> Option<Self> {
        let (prefix, rest): (u8, &[u8]) = if let Some(rest) = name.strip_prefix(b"user.") {
            (1, rest)
        } else if name == b"system.posix_acl_access" {
            (2, b"")
        } else if name == b"system.posix_acl_default" {
            (3, b"")
        } else if let Some(rest) = name.strip_prefix(b"security.") {
            (6, rest)
        } else {
            return None;
        };
        let steers_overlay = prefix == 1 && rest.starts_with(b"overlay.");
        if (rest.is_empty() && !matches!(prefix, 2 | 3)) || rest.contains(&0) || steers_overlay {
            return None;
        }
        Some(Self { prefix, name: rest.to_vec(), value: value.to_vec() })
    }

    fn is_valid(&self) -> bool {
        let named = match self.prefix {
            1 => !self.name.is_empty() && !self.name.starts_with(b"overlay."),
            2 | 3 => self.name.is_empty(),
            6 => !self.name.is_empty(),
            _ => false,
        };
        named
            && !self.name.contains(&0)
            && self.name.len() <= 255
            && self.value.len() <= usize::from(u16::MAX)
    }

    /// What it counts against [`XATTRS_MAX`].
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.value.len() + 16
    }

    /// What tells it from the others of its file.
    pub(crate) fn key(&self) -> (u8, &[u8]) {
        (self.prefix, &self.name)
    }
}

/// Writes a tree.
pub struct TreeWriter<W: Write> {
    out: W,
    entries: u64,
    bytes: u64,
}

impl<W: Write> TreeWriter<W> {
    /// Starts a tree.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self { out, entries: 0, bytes: MAGIC.len() as u64 })
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries written.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds `entry`, whose fields must be within the bounds that the reader checks.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        let (kind, a, b, link): (u8, u64, u64, &[u8]) = match &entry.kind {
            Kind::File { offset, size } => (0, *offset, *size, b""),
            Kind::Dir => (1, 0, 0, b""),
            Kind::Symlink(target) => (2, 0, 0, target),
            Kind::Hardlink(target) => (3, 0, 0, target),
            Kind::Char(major, minor) => (4, (*major).into(), (*minor).into(), b""),
            Kind::Block(major, minor) => (5, (*major).into(), (*minor).into(), b""),
            Kind::Fifo => (6, 0, 0, b""),
            Kind::Whiteout => (7, 0, 0, b""),
            Kind::Opaque => (8, 0, 0, b""),
        };
        let mut record = Vec::with_capacity(64 + entry.path.len() + link.len());
        record.push(kind);
        record.extend_from_slice(&entry.mode.to_le_bytes());
        record.extend_from_slice(&entry.uid.to_le_bytes());
        record.extend_from_slice(&entry.gid.to_le_bytes());
        record.extend_from_slice(&entry.mtime.to_le_bytes());
        record.extend_from_slice(&entry.mtime_nsec.to_le_bytes());
        record.extend_from_slice(&a.to_le_bytes());
        record.extend_from_slice(&b.to_le_bytes());
        record.extend_from_slice(&length(entry.xattrs.len())?.to_le_bytes());
        put(&mut record, &entry.path)?;
        put(&mut record, link)?;
        for xattr in &entry.xattrs {
            record.push(xattr.prefix);
            put(&mut record, &xattr.name)?;
            put(&mut record, &xattr.value)?;
        }
        self.out.write_all(&record)?;
        self.entries += 1;
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Marks the end and flushes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.out.write_all(&[END])?;
        self.out.flush()?;
        Ok(self.bytes + 1)
    }
}

fn length(n: usize) -> io::Result<u16> {
    u16::try_from(n).map_err(|_| io::Error::other("a field of a tree is over 64 KiB"))
}

fn put(record: &mut Vec<u8>, field: &[u8]) -> io::Result<()> {
    record.extend_from_slice(&length(field.len())?.to_le_bytes());
    record.extend_from_slice(field);
    Ok(())
}

/// Reads a tree, checking every field.
pub struct TreeReader<R: Read> {
    input: R,
    data_len: u64,
    done: bool,
}

impl<R: Read> TreeReader<R> {
    /// Starts reading a tree whose layer has `data_len` bytes of data.
    pub fn new(mut input: R, data_len: u64) -> Result<Self, ConvertError> {
        let mut magic = [0; 8];
        input.read_exact(&mut magic).map_err(|e| ConvertError::io("reading a layer's tree", &e))?;
        if &magic != MAGIC {
            return Err(ConvertError::malformed(
                "a layer's tree has no magic: remove the image and pull again",
            ));
        }
        Ok(Self { input, data_len, done: false })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ConvertError> {
        let mut field = [0; N];
        self.input.read_exact(&mut field).map_err(|e| ConvertError::io("reading a layer's tree", &e))?;
        Ok(field)
    }

    fn field(&mut self) -> Result<Vec<u8>, ConvertError> {
        let mut field = vec![0; u16::from_le_bytes(self.array()?).into()];
        self.input.read_exact(&mut field).map_err(|e| ConvertError::io("reading a layer's tree", &e))?;
        Ok(field)
    }

    fn entry(&mut self) -> Result<Option<Entry>, ConvertError> {
        let [kind] = self.array()?;
        if kind == END {
            return Ok(None);
        }
        let mode = u16::from_le_bytes(self.array()?);
        let uid = u32::from_le_bytes(self.array()?);
        let gid = u32::from_le_bytes(self.array()?);
        let mtime = i64::from_le_bytes(self.array()?);
        let mtime_nsec = u32::from_le_bytes(self.array()?);
        let a = u64::from_le_bytes(self.array()?);
        let b = u64::from_le_bytes(self.array()?);
        let xattr_count = u16::from_le_bytes(self.array()?);
        let path = self.field()?;
        let link = self.field()?;
        let bad = || ConvertError::malformed(format!("the tree's entry {} is invalid", show(&path)));
        let device = || Ok((u32::try_from(a).map_err(|_| bad())?, u32::try_from(b).map_err(|_| bad())?));
        let kind = match kind {
            0 => {
                let end = a.checked_add(b).ok_or_else(bad)?;
                if a % 4096 != 0 || end > self.data_len || (b == 0 && a != 0) {
                    return Err(bad());
                }
                Kind::File { offset: a, size: b }
            }
            1 => Kind::Dir,
            2 if !link.is_empty() && link.len() <= path::PATH_MAX && !link.contains(&0) => {
                Kind::Symlink(link)
            }
            3 if !link.is_empty() && path::is_normal(&link) => Kind::Hardlink(link),
            4 => device().map(|(major, minor)| Kind::Char(major, minor))?,
            5 => device().map(|(major, minor)| Kind::Block(major, minor))?,
            6 => Kind::Fifo,
            7 => Kind::Whiteout,
            8 => Kind::Opaque,
            _ => return Err(bad()),
        };
        let rooted = path.is_empty() && !matches!(kind, Kind::Dir | Kind::Opaque);
        if mode > 0o7777 || mtime_nsec >= 1_000_000_000 || !path::is_normal(&path) || rooted {
            return Err(bad());
        }
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut total = 0;
        for _ in 0..xattr_count {
            let [prefix] = self.array()?;
            let xattr = Xattr { prefix, name: self.field()?, value: self.field()? };
            total += xattr.size();
            let in_order = xattrs.last().is_none_or(|last| last.key() < xattr.key());
            if !xattr.is_valid() || !in_order || total > XATTRS_MAX {
                return Err(ConvertError::malformed(format!("{} has invalid attributes", show(&path))));
            }
            xattrs.push(xattr);
        }
        Ok(Some(Entry { path, kind, mode, uid, gid, mtime, mtime_nsec, xattrs }))
    }
}

impl<R: Read> Iterator for TreeReader<R> {
    type Item = Result<Entry, ConvertError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entry = self.entry().transpose();
        self.done = !matches!(entry, Some(Ok(_)));
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_bad_extents_do_not() {
        let entry = |kind| Entry {
            path: b"usr/bin/x".to_vec(),
            kind,
            mode: 0o4755,
            uid: 1,
            gid: u32::MAX,
            mtime: -5,
            mtime_nsec: 7,
            xattrs: vec![Xattr::parse(b"user.a", b"\0v").unwrap()],
        };
        let kinds = [
            Kind::File { offset: 4096, size: 10 },
            Kind::Dir,
            Kind::Symlink(b"../x".to_vec()),
            Kind::Hardlink(b"a".to_vec()),
            Kind::Char(1, 3),
            Kind::Fifo,
            Kind::Whiteout,
        ];
        let mut writer = TreeWriter::new(Vec::new()).unwrap();
        for kind in &kinds {
            writer.push(&entry(kind.clone())).unwrap();
        }
        writer.out.push(END);
        let bytes = writer.out;
        let read: Vec<_> = TreeReader::new(&bytes[..], 8192).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, kinds.map(entry));
        assert!(TreeReader::new(&bytes[..], 4100).unwrap().next().unwrap().is_err());
        assert!(TreeReader::new(&bytes[..60], 8192).unwrap().next().unwrap().is_err());
    }

    #[test]
    fn attributes_must_be_sound_and_in_order() {
        let read = |xattrs: &[(u8, &[u8])]| {
            let xattr =
                |(prefix, name): &(u8, &[u8])| Xattr { prefix: *prefix, name: name.to_vec(), value: vec![] };
            let xattrs = xattrs.iter().map(xattr).collect();
            let mut writer = TreeWriter::new(Vec::new()).unwrap();
            let path = b"f".to_vec();
            let entry =
                Entry { path, kind: Kind::Fifo, mode: 0, uid: 0, gid: 0, mtime: 0, mtime_nsec: 0, xattrs };
            writer.push(&entry).unwrap();
            TreeReader::new(&writer.out[..], 0).unwrap().next().unwrap()
        };
        assert!(read(&[(1, b"a"), (1, b"b"), (6, b"a")]).is_ok());
        let bad: [&[(u8, &[u8])]; 5] =
            [&[(1, b"a\0b")], &[(1, b"")], &[(9, b"a")], &[(1, b"b"), (1, b"a")], &[(1, b"a"), (1, b"a")]];
        for bad in bad {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn attributes_that_steer_overlayfs_are_dropped() {
        for name in ["trusted.overlay.opaque", "trusted.x", "user.overlay.whiteout", "user.", "odd.x"] {
            assert_eq!(Xattr::parse(name.as_bytes(), b"y"), None, "{name}");
        }
        assert_eq!(Xattr::parse(b"security.capability", b"c").unwrap().prefix, 6);
    }
}
