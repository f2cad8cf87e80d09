//! One layer onto the tree of those below it (OCI image spec, "Applying Changesets").

use std::collections::BTreeSet;
use std::io::Read;

use super::merge::{Id, Inode, InodeKind, Merged, ROOT, directory};
use super::metadata::Metadata;
use crate::convert::error::{ConvertError, show};
use crate::convert::path::split;
use crate::tree::{Entry, Kind, TreeReader};

/// Applies the layer whose tree `open` gives: first its whiteouts, which hide only what is below, then its
/// entries. `index` is the layer's number among those with data.
pub(super) fn apply_layer<R: Read>(
    tree: &mut Merged,
    index: usize,
    open: impl Fn() -> Result<TreeReader<R>, ConvertError>,
) -> Result<(), ConvertError> {
    let mut crossed = BTreeSet::new();
    for entry in open()? {
        let entry = entry?;
        if let Kind::Whiteout | Kind::Opaque = entry.kind {
            remove(tree, &entry, &mut crossed)?;
        }
    }
    if !crossed.is_empty() {
        for entry in open()? {
            let entry = entry?;
            if entry.kind == Kind::Dir {
                crossed.remove(&entry.path);
            }
        }
        if let Some(link) = crossed.first() {
            let what = format!("a whiteout goes through the symbolic link {}", show(link));
            return Err(ConvertError::malformed(what));
        }
    }
    for entry in open()? {
        add(tree, index, entry?)?;
    }
    Ok(())
}

/// Applies a whiteout. A symbolic link in its way is noted in `crossed`: nothing is removed, and unless the
/// layer itself puts a directory in the link's place, the layer is refused.
fn remove(tree: &mut Merged, entry: &Entry, crossed: &mut BTreeSet<Vec<u8>>) -> Result<(), ConvertError> {
    let (parent, name) = match entry.kind {
        Kind::Opaque => (&entry.path[..], None),
        _ => match split(&entry.path) {
            Some((parent, name)) => (parent, Some(name)),
            None => return Err(ConvertError::malformed("a whiteout of the root")),
        },
    };
    let mut dir = ROOT;
    let mut walked = 0;
    for part in parent.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        tree.step()?;
        walked += part.len() + usize::from(walked != 0);
        match tree.child(dir, part) {
            Some(next) if tree.is_dir(next) => dir = next,
            Some(next) => {
                if let InodeKind::Symlink(_) = tree.inodes[next].kind {
                    crossed.insert(parent[..walked].to_vec());
                }
                return Ok(());
            }
            None => return Ok(()),
        }
    }
    if let Some(children) = tree.children_mut(dir) {
        match name {
            Some(name) => drop(children.remove(name)),
            None => children.clear(),
        }
    }
    Ok(())
}

fn add(tree: &mut Merged, index: usize, entry: Entry) -> Result<(), ConvertError> {
    let Entry { path, kind, mode, uid, gid, mtime, mtime_nsec, xattrs } = entry;
    let metadata = Metadata { mode, uid, gid, mtime, mtime_nsec, xattrs };
    let Some((parent, name)) = split(&path) else {
        // containerd leaves the root as it makes it. What time it has is chance there, so here it may be the layer's.
        let mtime = Metadata { mode: 0o755, mtime, mtime_nsec, ..Metadata::default() };
        return if kind == Kind::Dir { tree.inodes[ROOT].set(mtime, &path) } else { Ok(()) };
    };
    let inode_kind = match kind {
        Kind::Whiteout | Kind::Opaque => return Ok(()),
        Kind::Dir => {
            let dir = parent_of(tree, parent)?;
            match tree.child(dir, name) {
                Some(existing) if tree.is_dir(existing) => {
                    // As overlayfs shows it: the attributes are those of the uppermost layer that has it.
                    tree.inodes[existing].xattrs.clear();
                    return tree.inodes[existing].set(metadata, &path);
                }
                _ => directory(dir).kind,
            }
        }
        Kind::Hardlink(target) => {
            let found = find(tree, &target)?;
            let Some(found) = found.filter(|id| !tree.is_dir(*id)) else {
                let what = format!("{} is a hard link to {}, which is no file", show(&path), show(&target));
                return Err(ConvertError::malformed(what));
            };
            let dir = parent_of(tree, parent)?;
            if let Some(children) = tree.children_mut(dir) {
                children.insert(name.into(), found);
            }
            // The entry's metadata becomes that of the file, under all of its names.
            return tree.inodes[found].set(metadata, &path);
        }
        Kind::File { offset, size } => InodeKind::File { layer: index, offset, size },
        Kind::Symlink(target) => InodeKind::Symlink(target),
        Kind::Char(major, minor) => InodeKind::Char(major, minor),
        Kind::Block(major, minor) => InodeKind::Block(major, minor),
        Kind::Fifo => InodeKind::Fifo,
    };
    let dir = parent_of(tree, parent)?;
    let mut inode = Inode { kind: inode_kind, ..directory(dir) };
    inode.set(metadata, &path)?;
    let id = tree.add(inode)?;
    if let Some(children) = tree.children_mut(dir) {
        children.insert(name.into(), id);
    }
    Ok(())
}

fn parent_of(tree: &mut Merged, parent: &[u8]) -> Result<Id, ConvertError> {
    tree.resolve_dir(parent, true)?.ok_or_else(|| ConvertError::malformed("a directory is missing"))
}

/// The inode at `path`; its last part is not followed if it is a symbolic link.
fn find(tree: &mut Merged, path: &[u8]) -> Result<Option<Id>, ConvertError> {
    let Some((parent, name)) = split(path) else { return Ok(Some(ROOT)) };
    let dir = tree.resolve_dir(parent, false)?;
    Ok(dir.and_then(|dir| tree.child(dir, name)))
}
