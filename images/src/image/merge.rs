//! The merged tree of an image in memory, and how paths are resolved in it.

use std::collections::BTreeMap;

use crate::convert::Limits;
use crate::convert::error::{ConvertError, show};
use crate::convert::path::NAME_MAX;
use crate::tree::Xattr;

/// An inode's place in [`Merged`].
pub(super) type Id = usize;
/// The root directory's.
pub(super) const ROOT: Id = 0;
/// Symbolic links followed in one resolution, as Linux counts.
const LINKS_MAX: usize = 40;
/// Path components looked at while one image is merged: bounds the time hostile paths can take.
const STEPS_MAX: u64 = 200_000_000;

/// A file, directory or other node.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) kind: InodeKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
    pub(super) xattrs: Vec<Xattr>,
}

#[derive(Debug)]
pub(super) enum InodeKind {
    Dir { children: BTreeMap<Box<[u8]>, Id>, parent: Id },
    File { layer: usize, offset: u64, size: u64 },
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// The tree; inodes that were replaced stay in `inodes` unreachable.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) inodes: Vec<Inode>,
    steps: u64,
    inodes_max: u64,
}

impl Merged {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { inodes: vec![directory(ROOT)], steps: 0, inodes_max: limits.entries }
    }

    pub(super) fn add(&mut self, inode: Inode) -> Result<Id, ConvertError> {
        if self.inodes.len() as u64 > self.inodes_max {
            return Err(ConvertError::TooLarge(format!("an image has over {} files", self.inodes_max)));
        }
        self.inodes.push(inode);
        Ok(self.inodes.len() - 1)
    }

    pub(super) fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.inodes[dir].kind {
            InodeKind::Dir { children, .. } => children.get(name).copied(),
            _ => None,
        }
    }

    pub(super) fn children_mut(&mut self, dir: Id) -> Option<&mut BTreeMap<Box<[u8]>, Id>> {
        match &mut self.inodes[dir].kind {
            InodeKind::Dir { children, .. } => Some(children),
            _ => None,
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        matches!(self.inodes[id].kind, InodeKind::Dir { .. })
    }

    pub(super) fn step(&mut self) -> Result<(), ConvertError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(ConvertError::TooLarge("an image's paths take too long to resolve".into()));
        }
        Ok(())
    }

    /// The directory at `path`, symbolic links followed inside the image, missing ones made if `create`.
    pub(super) fn resolve_dir(&mut self, path: &[u8], create: bool) -> Result<Option<Id>, ConvertError> {
        let mut current = ROOT;
        let mut links = 0;
        // What is still to be walked, its next component last.
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        while let Some(name) = rest.pop() {
            self.step()?;
            let InodeKind::Dir { children, parent } = &self.inodes[current].kind else {
                return Err(ConvertError::malformed(format!("a part of {} is no directory", show(path))));
            };
            if name == b".." {
                current = *parent;
                continue;
            }
            let Some(&found) = children.get(&name[..]) else {
                if !create {
                    return Ok(None);
                }
                if name.len() > NAME_MAX {
                    return Err(ConvertError::malformed(format!(
                        "{} leads to a name over 255 bytes",
                        show(path)
                    )));
                }
                let made = self.add(directory(current))?;
                if let Some(children) = self.children_mut(current) {
                    children.insert(name.into(), made);
                }
                current = made;
                continue;
            };
            if let InodeKind::Symlink(target) = &self.inodes[found].kind {
                links += 1;
                if links > LINKS_MAX {
                    let what = format!("{} passes over {LINKS_MAX} symbolic links", show(path));
                    return Err(ConvertError::malformed(what));
                }
                if target.starts_with(b"/") {
                    current = ROOT;
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
                continue;
            }
            current = found;
        }
        if !self.is_dir(current) {
            return Err(ConvertError::malformed(format!(
                "{} is used as a directory but is none",
                show(path)
            )));
        }
        Ok(Some(current))
    }
}

/// The parts of a path or a link's target.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

/// A directory that no archive described.
pub(super) fn directory(parent: Id) -> Inode {
    Inode {
        kind: InodeKind::Dir { children: BTreeMap::new(), parent },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nsec: 0,
        xattrs: Vec::new(),
    }
}
