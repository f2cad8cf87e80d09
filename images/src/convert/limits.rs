//! Budgets of a conversion.

use serde::{Deserialize, Serialize};

/// What one layer, and one image, may cost. Exceeding any is [`crate::ImageError::TooLarge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Entries of one layer, and inodes of one image.
    pub entries: u64,
    /// Bytes of a layer's metadata: names, links, extended attributes.
    pub tree_bytes: u64,
    /// Bytes of a layer once decompressed, of a disk image as it comes, and of the data in it.
    pub layer_bytes: u64,
    /// Bytes of a disk, most of which may be holes.
    pub disk_bytes: u64,
    /// A layer or disk may always unpack to this many bytes, whatever its compressed size.
    pub ratio_floor: u64,
    /// Past `ratio_floor`, unpacked bytes per compressed byte.
    pub ratio: u64,
    /// Address space of a conversion, in bytes: a zstd window of 128 MiB, or the merged tree of an image.
    pub memory: u64,
    /// CPU time of a conversion, in seconds.
    pub cpu_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            tree_bytes: 512 << 20,
            layer_bytes: 64 << 30,
            disk_bytes: 2 << 40,
            ratio_floor: 1 << 30,
            ratio: 200,
            memory: 2 << 30,
            cpu_seconds: 1800,
        }
    }
}
