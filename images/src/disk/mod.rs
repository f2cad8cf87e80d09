//! Disk images: what a virtual machine would boot, in the place of a container image's layers.
//!
//! A disk comes as a file, as an OCI artifact or as KubeVirt's containerDisk, raw or as qcow2. Whichever it is
//! becomes a sparse raw file once, when it enters the store; that form is never guessed at again, whatever a
//! guest reads from it. Partitions and file systems in it are the guest's business alone.

pub mod qcow2;
pub(crate) mod sparse;

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{ImageError, Result};
use crate::layout::open_regular;

/// The unit of a disk's size, in bytes.
pub(crate) const SECTOR: u64 = 512;
/// How many of a disk's first bytes [`DiskFormat::probe`] looks at.
pub(crate) const HEAD: usize = 8;

/// How the bytes of a disk image are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// As the disk itself; the last sector is filled up with zeroes.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3 (QEMU's docs/interop/qcow2.txt).
    Qcow2,
}

/// First bytes of formats that hold disks and are none of ours, and what they are. Taken for a raw disk, each
/// would only fail in the guest, where nobody could say why.
const OTHERS: [(&[u8], &str); 8] = [
    (b"KDMV", "a VMDK disk"),
    (b"vhdxfile", "a VHDX disk"),
    (b"conectix", "a VHD disk"),
    (b"<<< ", "a VDI disk"),
    (b"QED\0", "a QED disk"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
];

impl DiskFormat {
    /// Tells the format of an image that nothing else tells of by its first [`HEAD`] bytes.
    pub(crate) fn probe(head: &[u8]) -> Result<Self> {
        if head.starts_with(&qcow2::MAGIC) {
            return Ok(Self::Qcow2);
        }
        match OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            Some((_, what)) => Err(ImageError::Unsupported(format!(
                "{what}: disks are raw or qcow2; unpack it if it is packed, then `qemu-img convert -O qcow2 IMAGE \
                 NEW` makes one"
            ))),
            None => Ok(Self::Raw),
        }
    }

    /// As in messages and keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Whether the file at `path` begins as a qcow2 image does. Nothing tells a raw disk by its beginning.
pub fn is_qcow2(path: &Path) -> bool {
    let mut head = qcow2::MAGIC.map(|_| 0);
    let read = open_regular(path).is_ok_and(|(file, _)| file.read_exact_at(&mut head, 0).is_ok());
    read && head == qcow2::MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart_and_others_are_named() {
        assert_eq!(DiskFormat::probe(b"QFI\xfb\0\0\0\x03").unwrap(), DiskFormat::Qcow2);
        for raw in [&[0; HEAD][..], b"\xeb\x63\x90\0\0\0\0\0", b"", b"QFI"] {
            assert_eq!(DiskFormat::probe(raw).unwrap(), DiskFormat::Raw);
        }
        for (head, what) in OTHERS {
            let error = DiskFormat::probe(head).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("qemu-img convert"), "{error}");
        }
    }
}
