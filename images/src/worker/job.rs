//! What the store and `husk-convert` say to each other: a [`Job`] as the only argument, an [`Outcome`] as the
//! only output, both in JSON. Everything else comes and goes by file descriptors.

use serde::{Deserialize, Serialize};

use crate::convert::{ConvertError, Limits, Verdict};
use crate::image::DiskFile;

/// The first descriptor after standard input, output and error.
pub const FIRST_FD: i32 = 3;
/// Added to a signal's number it is the status of a worker that the signal has ended, as shells tell it.
pub const DEATH_STATUS: i32 = 128;
/// Longest outcome, in bytes.
pub const OUTCOME_MAX: u64 = 64 << 10;

/// One conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What to convert.
    pub task: Task,
    /// Its budgets.
    pub limits: Limits,
    /// User and group to become, where started by root.
    pub run_as: u32,
}

/// Kinds of conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// A layer from standard input decompressed into a pipe ([`FIRST_FD`]). What comes out is hashed outside and
    /// parsed by another worker: one that was taken over cannot pass its bytes off as another layer's.
    Unpack,
    /// An uncompressed layer from standard input into `data` ([`FIRST_FD`]) and `tree` (the next).
    Layer,
    /// Layers' trees (from [`FIRST_FD`] + 1 on, lowest first) into an image's `meta` ([`FIRST_FD`]).
    Image {
        /// Bytes of each layer's data.
        layers: Vec<u64>,
        /// The file system's identifier.
        uuid: [u8; 16],
    },
    /// The disk in a qcow2 image, a piece of a file ([`FIRST_FD`] + 1), into a sparse file ([`FIRST_FD`]).
    Qcow2 {
        /// Where the image begins in its file, in bytes.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
}

impl Task {
    /// How many descriptors belong to it, from [`FIRST_FD`] on.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Unpack => 1,
            Self::Layer | Self::Qcow2 { .. } => 2,
            Self::Image { layers, .. } => 1 + layers.len(),
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The layer is decompressed.
    Unpacked,
    /// The layer is converted.
    Layer(Verdict),
    /// The image's metadata is written.
    Image {
        /// Bytes of `meta`.
        meta_len: u64,
        /// The disk image that is all that the image holds, if it is one (KubeVirt's containerDisk).
        #[serde(default)]
        disk: Option<DiskFile>,
    },
    /// The disk is written.
    Disk {
        /// Its bytes; the file may be shorter, and the rest is zero.
        bytes: u64,
    },
    /// It cannot be done.
    Failed(ConvertError),
}
