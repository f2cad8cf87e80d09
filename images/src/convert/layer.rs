//! One layer: an archive in, its `data` and `tree` out, in one pass.

use std::fs::File;
use std::io::{BufWriter, Read};

use serde::{Deserialize, Serialize};

use super::data::DataWriter;
use super::error::{ConvertError, show};
use super::limits::Limits;
use super::path::{normalise, split};
use super::stream::ArchiveStream;
use super::tar::{EntryKind, Header, TarReader};
use crate::tree::{Entry, Kind, TreeWriter, XATTRS_MAX, Xattr};

/// What a conversion found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Bytes in `data`, a multiple of 4096.
    pub data_len: u64,
    /// Bytes in `tree`.
    pub tree_len: u64,
    /// Entries in `tree`.
    pub entries: u64,
}

/// Converts the uncompressed layer that `input` gives into `data` and `tree`, which must be empty.
///
/// # Errors
/// [`ConvertError`] for bytes that are no acceptable layer, budgets, and I/O. The files are then unfit.
pub fn convert_layer(
    input: impl Read,
    data: &File,
    tree: &File,
    limits: &Limits,
) -> Result<Verdict, ConvertError> {
    let mut archive = TarReader::new(ArchiveStream::new(input, limits.layer_bytes));
    let mut data = DataWriter::new(data, limits.layer_bytes);
    let out = BufWriter::with_capacity(256 << 10, tree);
    let mut tree = TreeWriter::new(out).map_err(|e| ConvertError::io("writing a layer's tree", &e))?;
    while let Some(header) = archive.next()? {
        let Some(entry) = convert_entry(header, &mut archive, &mut data)? else { continue };
        tree.push(&entry).map_err(|e| ConvertError::io("writing a layer's tree", &e))?;
        if tree.entries() > limits.entries {
            return Err(ConvertError::TooLarge(format!("a layer has over {} entries", limits.entries)));
        }
        if tree.bytes() > limits.tree_bytes {
            let what = format!("a layer has over {} bytes of names and attributes", limits.tree_bytes);
            return Err(ConvertError::TooLarge(what));
        }
    }
    let entries = tree.entries();
    let tree_len = tree.finish().map_err(|e| ConvertError::io("writing a layer's tree", &e))?;
    let data_len = data.finish()?;
    archive.finish()?;
    Ok(Verdict { data_len, tree_len, entries })
}

fn convert_entry(
    header: Header,
    archive: &mut TarReader<'_>,
    data: &mut DataWriter<'_>,
) -> Result<Option<Entry>, ConvertError> {
    let path = normalise(&header.path)?;
    let name = split(&path).map_or(&b""[..], |(_, name)| name);
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        return Ok(whiteout(&path, hidden)?.map(|(path, kind)| plain(path, kind)));
    }
    if path.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh.")) {
        return Err(ConvertError::malformed(format!("{} lies inside a whiteout", show(&path))));
    }
    let kind = match header.kind {
        EntryKind::Dir => Kind::Dir,
        _ if path.is_empty() => {
            return Err(ConvertError::malformed("the archive's root is not a directory"));
        }
        EntryKind::File => {
            let offset = match &header.parts {
                None => data.copy(header.size, archive)?,
                Some(parts) => data.copy_sparse(header.size, parts, archive)?,
            };
            Kind::File { offset, size: header.size }
        }
        EntryKind::Symlink => {
            let target = header.link;
            if target.is_empty() || target.len() > super::path::PATH_MAX || target.contains(&0) {
                let what = format!("the symbolic link {} has an invalid target", show(&path));
                return Err(ConvertError::malformed(what));
            }
            Kind::Symlink(target)
        }
        EntryKind::Hardlink => {
            let target = normalise(&header.link)?;
            if target.is_empty() {
                return Err(ConvertError::malformed(format!("{} is a hard link to the root", show(&path))));
            }
            Kind::Hardlink(target)
        }
        // In overlayfs this device is a whiteout; as a device it is good for nothing.
        EntryKind::Char if header.device == (0, 0) => return Ok(None),
        EntryKind::Char => Kind::Char(header.device.0, header.device.1),
        EntryKind::Block => Kind::Block(header.device.0, header.device.1),
        EntryKind::Fifo => Kind::Fifo,
    };
    let mut xattrs = Vec::new();
    let mut total = 0;
    for (key, value) in &header.xattrs {
        let Some(xattr) = Xattr::parse(key, value) else { continue };
        total += xattr.size();
        if xattr.name.len() > 255 || xattr.value.len() > usize::from(u16::MAX) || total > XATTRS_MAX {
            let what = format!("{} has over 64 KiB of extended attributes", show(&path));
            return Err(ConvertError::TooLarge(what));
        }
        xattrs.push(xattr);
    }
    xattrs.sort();
    if xattrs.windows(2).any(|two| two[0].prefix == two[1].prefix && two[0].name == two[1].name) {
        return Err(ConvertError::malformed(format!("{} repeats an extended attribute", show(&path))));
    }
    let (mtime, mtime_nsec) = header.mtime;
    let Header { mode, uid, gid, .. } = header;
    Ok(Some(Entry { path, kind, mode, uid, gid, mtime, mtime_nsec, xattrs }))
}

/// What the file `.wh.HIDDEN` at `path` removes (OCI image spec, "Whiteouts").
fn whiteout(path: &[u8], hidden: &[u8]) -> Result<Option<(Vec<u8>, Kind)>, ConvertError> {
    let parent = split(path).map_or(&b""[..], |(parent, _)| parent);
    if parent.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh.")) {
        return Err(ConvertError::malformed(format!("{} lies inside a whiteout", show(path))));
    }
    match hidden {
        b".wh..opq" => Ok(Some((parent.to_vec(), Kind::Opaque))),
        // aufs's own records.
        _ if hidden.starts_with(b".wh.") => Ok(None),
        b"" | b"." | b".." => Err(ConvertError::malformed(format!("{} is no whiteout", show(path)))),
        _ => {
            let mut removed = parent.to_vec();
            if !removed.is_empty() {
                removed.push(b'/');
            }
            removed.extend_from_slice(hidden);
            Ok(Some((removed, Kind::Whiteout)))
        }
    }
}

fn plain(path: Vec<u8>, kind: Kind) -> Entry {
    Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime: 0, mtime_nsec: 0, xattrs: Vec::new() }
}
