//! OCI artifacts that are disks: a manifest whose only layer is the disk image itself, not an archive. Its
//! configuration may be of any type; it says nothing that is used.

use oci_spec::image::{Descriptor, ImageManifest};

use crate::disk::DiskFormat;

/// The media types of a disk's layer. The first of each are the names in the shared MIME database of desktops, the
/// others what publishers of disks write.
const DISK_TYPES: [(&str, DiskFormat); 6] = [
    ("application/x-qemu-disk", DiskFormat::Qcow2),
    ("application/x-qcow2", DiskFormat::Qcow2),
    ("application/vnd.qemu.qcow2", DiskFormat::Qcow2),
    ("application/x-raw-disk-image", DiskFormat::Raw),
    ("application/x-raw", DiskFormat::Raw),
    ("application/vnd.qemu.raw", DiskFormat::Raw),
];

/// The disk that `manifest` describes, if it does.
pub(crate) fn disk(manifest: &ImageManifest) -> Option<(DiskFormat, &Descriptor)> {
    let [layer] = &manifest.layers()[..] else { return None };
    let media_type = layer.media_type().as_ref();
    let (_, format) = DISK_TYPES.iter().find(|(name, _)| *name == media_type)?;
    Some((*format, layer))
}
