//! EROFS metadata for a merged tree (Linux `fs/erofs/erofs_fs.h`, `Documentation/filesystems/erofs.rst`).
//!
//! The layout of `meta`, in blocks of 4096: the superblock's block; the inodes, all of 64 bytes, each
//! followed by its attributes and, where it fits into the inode's block, a directory's or link's content; the
//! blocks of larger directories and links. The layers' data come behind it, and files point into them.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use super::merge::{Id, Inode, InodeKind, Merged, ROOT};
use crate::convert::ConvertError;
use crate::tree::Xattr;

const BLOCK: u64 = 4096;
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum; inodes' times are modification times.
const COMPAT: u32 = 0x1 | 0x2;
/// Inode numbers count slots of 32 bytes.
const SLOT: u64 = 32;
const INODE: u64 = 64;
const DIRENT: usize = 12;
/// `i_format`: extended inode (bit 0) with its layout (from bit 1).
const FLAT_PLAIN: u16 = 1;
const FLAT_INLINE: u16 = 1 | 2 << 1;

/// Where an inode goes.
#[derive(Clone, Copy)]
struct Place {
    /// Byte offset in `meta`; 0 for what is unreachable.
    at: u64,
    /// First block of content outside of the inode; 0 for none.
    block: u64,
    /// Bytes of content.
    size: u64,
    /// Whether the content follows the inode.
    inline: bool,
    links: u32,
}

const NOWHERE: Place = Place { at: 0, block: 0, size: 0, inline: false, links: 0 };

/// The inodes to be written, in order, with their places.
struct Plan {
    order: Vec<Id>,
    places: Vec<Place>,
    /// End of the inodes, and of all metadata, in blocks.
    inode_blocks: u64,
    meta_blocks: u64,
}

/// Writes `tree` to `meta`; `data` are the lengths of the layers' data behind it. Returns the bytes written.
pub(super) fn write(tree: &Merged, data: &[u64], uuid: [u8; 16], meta: &File) -> Result<u64, ConvertError> {
    let plan = plan(tree)?;
    let mut first_blocks = Vec::with_capacity(data.len());
    let mut blocks = plan.meta_blocks;
    for length in data {
        first_blocks.push(blocks);
        blocks = blocks.saturating_add(length.div_ceil(BLOCK));
    }
    let Ok(blocks) = u32::try_from(blocks) else {
        return Err(ConvertError::TooLarge("an image is over 16 TiB".into()));
    };
    let mut out = Out { out: BufWriter::with_capacity(1 << 20, meta), at: 0 };
    let wrote = (|| {
        out.bytes(&superblock(&plan, blocks, uuid))?;
        write_inodes(&mut out, tree, &plan, &first_blocks)?;
        write_blocks(&mut out, tree, &plan)?;
        out.out.flush()
    })();
    wrote.map_err(|e| ConvertError::io("writing an image's metadata", &e))?;
    Ok(plan.meta_blocks * BLOCK)
}

/// Walks the tree from its root, breadth first, and gives every inode its place.
fn plan(tree: &Merged) -> Result<Plan, ConvertError> {
    let mut places = vec![NOWHERE; tree.inodes.len()];
    let mut order = vec![ROOT];
    places[ROOT].links = 2;
    let mut next = 0;
    while let Some(&id) = order.get(next) {
        next += 1;
        let InodeKind::Dir { children, .. } = &tree.inodes[id].kind else { continue };
        for &child in children.values() {
            if places[child].links == 0 {
                order.push(child);
            }
            places[child].links += 1;
            if tree.is_dir(child) {
                places[child].links = 2;
                places[id].links += 1;
            }
        }
    }
    let mut at = BLOCK;
    for &id in &order {
        let inode = &tree.inodes[id];
        let head = INODE + xattrs_size(&inode.xattrs);
        let size = content_size(inode);
        let inline = size != 0 && has_content(inode) && head + size <= BLOCK;
        // Content behind an inode must lie in one block; so must a bare inode for the sake of readers.
        let together = if inline { head + size } else { INODE };
        if at % BLOCK + together > BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        let place = &mut places[id];
        (place.at, place.size, place.inline) = (at, size, inline);
        at = (at + head + if inline { size } else { 0 }).next_multiple_of(SLOT);
    }
    let inode_blocks = at.div_ceil(BLOCK);
    let mut block = inode_blocks;
    for &id in &order {
        let place = &mut places[id];
        if has_content(&tree.inodes[id]) && !place.inline && place.size != 0 {
            place.block = block;
            block += place.size.div_ceil(BLOCK);
        }
    }
    Ok(Plan { order, places, inode_blocks, meta_blocks: block })
}

/// Whether the inode's content is metadata, as opposed to a layer's data.
fn has_content(inode: &Inode) -> bool {
    matches!(inode.kind, InodeKind::Dir { .. } | InodeKind::Symlink(_))
}

fn content_size(inode: &Inode) -> u64 {
    match &inode.kind {
        InodeKind::File { size, .. } => *size,
        InodeKind::Symlink(target) => target.len() as u64,
        InodeKind::Dir { .. } => {
            let mut layout = DirLayout::default();
            for (name, _) in names(inode, ROOT) {
                layout.add(name.len());
            }
            layout.full * BLOCK + layout.used as u64
        }
        _ => 0,
    }
}

/// How names fill a directory's blocks.
#[derive(Default)]
struct DirLayout {
    full: u64,
    used: usize,
}

impl DirLayout {
    /// Adds a name; true if it begins another block.
    fn add(&mut self, name: usize) -> bool {
        let begins = self.used + DIRENT + name > BLOCK as usize;
        if begins {
            self.full += 1;
            self.used = 0;
        }
        self.used += DIRENT + name;
        begins
    }
}

/// A directory's names in byte order with `.` and `..` among them, as the kernel's search wants them.
fn names(inode: &Inode, id: Id) -> Vec<(&[u8], Id)> {
    let InodeKind::Dir { children, parent } = &inode.kind else { return Vec::new() };
    let mut names: Vec<(&[u8], Id)> = vec![(b".", id), (b"..", *parent)];
    names.extend(children.iter().map(|(name, child)| (&name[..], *child)));
    names.sort_unstable_by_key(|(name, _)| *name);
    names
}

fn dir_content(tree: &Merged, plan: &Plan, id: Id) -> Vec<u8> {
    let names = names(&tree.inodes[id], id);
    let mut content = Vec::with_capacity(plan.places[id].size as usize);
    let mut layout = DirLayout::default();
    let mut start = 0;
    for (index, (name, _)) in names.iter().enumerate() {
        if layout.add(name.len()) {
            put_dirents(&mut content, tree, plan, &names[start..index]);
            content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
            start = index;
        }
    }
    put_dirents(&mut content, tree, plan, &names[start..]);
    content
}

fn put_dirents(content: &mut Vec<u8>, tree: &Merged, plan: &Plan, names: &[(&[u8], Id)]) {
    let mut offset = names.len() * DIRENT;
    for (name, id) in names {
        content.extend_from_slice(&(plan.places[*id].at / SLOT).to_le_bytes());
        content.extend_from_slice(&(offset as u16).to_le_bytes());
        content.push(match tree.inodes[*id].kind {
            InodeKind::File { .. } => 1,
            InodeKind::Dir { .. } => 2,
            InodeKind::Char(..) => 3,
            InodeKind::Block(..) => 4,
            InodeKind::Fifo => 5,
            InodeKind::Symlink(_) => 7,
        });
        content.push(0);
        offset += name.len();
    }
    for (name, _) in names {
        content.extend_from_slice(name);
    }
}

fn xattrs_size(xattrs: &[Xattr]) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    12 + xattrs.iter().map(|x| (4 + x.name.len() + x.value.len()).next_multiple_of(4) as u64).sum::<u64>()
}

/// The first block and a half: zeros, the superblock at 1024, zeros.
fn superblock(plan: &Plan, blocks: u32, uuid: [u8; 16]) -> Vec<u8> {
    let mut sb = Vec::with_capacity(128);
    sb.extend_from_slice(&MAGIC.to_le_bytes());
    sb.extend_from_slice(&[0; 4]);
    sb.extend_from_slice(&COMPAT.to_le_bytes());
    sb.extend_from_slice(&[BLOCK.trailing_zeros() as u8, 0]);
    // The root is the first inode, so its number is always the same and small.
    sb.extend_from_slice(&((plan.places[ROOT].at / SLOT) as u16).to_le_bytes());
    sb.extend_from_slice(&(plan.order.len() as u64).to_le_bytes());
    sb.extend_from_slice(&[0; 12]);
    sb.extend_from_slice(&blocks.to_le_bytes());
    sb.extend_from_slice(&[0; 8]);
    sb.extend_from_slice(&uuid);
    let mut block = vec![0; BLOCK as usize];
    block[SUPERBLOCK..SUPERBLOCK + sb.len()].copy_from_slice(&sb);
    let checksum = crc32c(&block[SUPERBLOCK..]);
    block[SUPERBLOCK + 4..SUPERBLOCK + 8].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// CRC-32C as the kernel's `crc32c(~0, …)` gives it: without the usual final inversion.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

struct Out<'a> {
    out: BufWriter<&'a File>,
    at: u64,
}

impl Out<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, at: u64) -> io::Result<()> {
        let gap = at.checked_sub(self.at).ok_or_else(|| io::Error::other("metadata overlap"))?;
        io::copy(&mut io::Read::take(io::repeat(0), gap), &mut self.out)?;
        self.at = at;
        Ok(())
    }
}

fn write_inodes(out: &mut Out<'_>, tree: &Merged, plan: &Plan, data: &[u64]) -> io::Result<()> {
    for (number, &id) in plan.order.iter().enumerate() {
        let (inode, place) = (&tree.inodes[id], &plan.places[id]);
        out.pad_to(place.at)?;
        out.bytes(&inode_head(inode, place, number as u32 + 1, data))?;
        if place.inline {
            match &inode.kind {
                InodeKind::Symlink(target) => out.bytes(target)?,
                _ => out.bytes(&dir_content(tree, plan, id))?,
            }
        }
    }
    out.pad_to(plan.inode_blocks * BLOCK)
}

/// `struct erofs_inode_extended` and the attributes.
fn inode_head(inode: &Inode, place: &Place, number: u32, data: &[u64]) -> Vec<u8> {
    let (format, address): (u32, u32) = match &inode.kind {
        InodeKind::Dir { .. } => (0o040_000, place.block as u32),
        InodeKind::Symlink(_) => (0o120_000, place.block as u32),
        InodeKind::File { size: 0, .. } => (0o100_000, 0),
        // Below 2³²: `write` has counted all blocks.
        InodeKind::File { layer, offset, .. } => (0o100_000, (data[*layer] + offset / BLOCK) as u32),
        InodeKind::Char(major, minor) => (0o020_000, device(*major, *minor)),
        InodeKind::Block(major, minor) => (0o060_000, device(*major, *minor)),
        InodeKind::Fifo => (0o010_000, 0),
    };
    let xattrs = xattrs_size(&inode.xattrs);
    let count = if xattrs == 0 { 0 } else { (xattrs - 12) / 4 + 1 };
    let mut head = Vec::with_capacity((INODE + xattrs) as usize);
    head.extend_from_slice(&if place.inline { FLAT_INLINE } else { FLAT_PLAIN }.to_le_bytes());
    head.extend_from_slice(&(count as u16).to_le_bytes());
    head.extend_from_slice(&(format as u16 | inode.mode).to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    head.extend_from_slice(&place.size.to_le_bytes());
    head.extend_from_slice(&address.to_le_bytes());
    head.extend_from_slice(&number.to_le_bytes());
    head.extend_from_slice(&inode.uid.to_le_bytes());
    head.extend_from_slice(&inode.gid.to_le_bytes());
    head.extend_from_slice(&inode.mtime.to_le_bytes());
    head.extend_from_slice(&inode.mtime_nsec.to_le_bytes());
    head.extend_from_slice(&place.links.to_le_bytes());
    head.resize(INODE as usize, 0);
    if xattrs != 0 {
        head.extend_from_slice(&[0; 12]);
        for xattr in &inode.xattrs {
            head.extend_from_slice(&[xattr.name.len() as u8, xattr.prefix]);
            head.extend_from_slice(&(xattr.value.len() as u16).to_le_bytes());
            head.extend_from_slice(&xattr.name);
            head.extend_from_slice(&xattr.value);
            head.resize(head.len().next_multiple_of(4), 0);
        }
    }
    head
}

/// The kernel's `new_encode_dev`: 12 bits of major, 20 of minor.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

fn write_blocks(out: &mut Out<'_>, tree: &Merged, plan: &Plan) -> io::Result<()> {
    for &id in &plan.order {
        let place = &plan.places[id];
        if place.block == 0 {
            continue;
        }
        out.pad_to(place.block * BLOCK)?;
        match &tree.inodes[id].kind {
            InodeKind::Symlink(target) => out.bytes(target)?,
            _ => out.bytes(&dir_content(tree, plan, id))?,
        }
    }
    out.pad_to(plan.meta_blocks * BLOCK)
}

#[cfg(test)]
mod unit {
    #[test]
    fn checksum_is_the_kernels() {
        // CRC-32C's check value is the inversion of this one.
        assert_eq!(super::crc32c(b"123456789"), !0xe306_9283);
    }
}
