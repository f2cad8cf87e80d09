//! Images that only carry a disk: KubeVirt's containerDisk.

use serde::{Deserialize, Serialize};

use super::merge::{Id, InodeKind, Merged, ROOT};

/// A disk image in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFile {
    /// The number of the layer with its content.
    pub layer: usize,
    /// Where it begins in the layer's data, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// The disk image of a containerDisk: the only file, in the directory `/disk`. An image with anything beside it is
/// one of files, whatever they are.
pub(super) fn find(tree: &Merged) -> Option<DiskFile> {
    let disk = only_child(tree, ROOT, Some(b"disk"))?;
    match tree.inodes.get(only_child(tree, disk, None)?)?.kind {
        InodeKind::File { layer, offset, size } if size > 0 => Some(DiskFile { layer, offset, size }),
        _ => None,
    }
}

fn only_child(tree: &Merged, dir: Id, named: Option<&[u8]>) -> Option<Id> {
    let InodeKind::Dir { children, .. } = &tree.inodes.get(dir)?.kind else { return None };
    let (name, id) = children.first_key_value()?;
    (children.len() == 1 && named.is_none_or(|named| named == &**name)).then_some(*id)
}
