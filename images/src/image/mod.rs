//! One image: its layers' trees merged and written as EROFS metadata.

mod acl;
mod apply;
mod contained;
mod erofs;
mod merge;
mod metadata;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::BufReader;

use crate::convert::{ConvertError, Limits};
use crate::tree::TreeReader;

pub use contained::DiskFile;

/// A layer's files as the merge reads them.
#[derive(Debug)]
pub struct LayerInput {
    /// The layer's `tree`, at its start.
    pub tree: File,
    /// Bytes in the layer's `data`.
    pub data_len: u64,
}

/// What an image came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Bytes of its metadata, a multiple of 4096.
    pub meta_len: u64,
    /// The disk image that is all it holds, if it is one.
    pub disk: Option<DiskFile>,
}

/// Merges `layers` (lowest first) and writes the metadata of their EROFS file system to `meta`, which must be
/// empty. The file system is `meta` followed by each layer's data. Without layers it is an empty root
/// directory.
///
/// # Errors
/// [`ConvertError`] for trees that make no image (a hard link to nothing, a whiteout through a symbolic link),
/// budgets, and I/O.
pub fn build_image(
    layers: &[LayerInput],
    uuid: [u8; 16],
    meta: &File,
    limits: &Limits,
) -> Result<Built, ConvertError> {
    use std::io::Seek;
    let mut tree = merge::Merged::new(limits);
    for (index, layer) in layers.iter().enumerate() {
        let open = || -> Result<_, ConvertError> {
            let mut file = &layer.tree;
            file.rewind().map_err(|e| ConvertError::io("reading a layer's tree", &e))?;
            TreeReader::new(BufReader::with_capacity(256 << 10, file), layer.data_len)
        };
        apply::apply_layer(&mut tree, index, open)?;
    }
    let lengths: Vec<u64> = layers.iter().map(|layer| layer.data_len).collect();
    let meta_len = erofs::write(&tree, &lengths, uuid, meta)?;
    Ok(Built { meta_len, disk: contained::find(&tree) })
}
