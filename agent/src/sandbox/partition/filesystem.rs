//! Which file system a device has, by its magic number, and its label. Whether it is sound is for the kernel to say,
//! which mounts it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// A file system that the guest's kernel may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name for mount(2).
    pub kind: &'static str,
    /// As far as it is text.
    pub label: String,
}

/// Where a file system's magic number and label are on its device, in bytes.
struct Layout {
    kind: &'static str,
    magic_at: u64,
    magic: &'static [u8],
    label_at: u64,
    label_bytes: usize,
}

/// In the kernel's fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h, include/uapi/linux/btrfs_tree.h. The driver of ext4
/// mounts its forerunners as well.
const LAYOUTS: [Layout; 3] = [
    Layout { kind: "ext4", magic_at: 0x438, magic: b"\x53\xef", label_at: 0x478, label_bytes: 16 },
    Layout { kind: "xfs", magic_at: 0, magic: b"XFSB", label_at: 0x6c, label_bytes: 12 },
    Layout { kind: "btrfs", magic_at: 0x1_0040, magic: b"_BHRfS_M", label_at: 0x1_012b, label_bytes: 256 },
];

impl FileSystem {
    /// The one on `device`, if it is known; one that cannot be read is none.
    pub fn find(device: &File) -> Option<Self> {
        LAYOUTS.iter().find_map(|layout| {
            let mut magic = vec![0; layout.magic.len()];
            device.read_exact_at(&mut magic, layout.magic_at).ok()?;
            if magic != layout.magic {
                return None;
            }
            let mut label = vec![0; layout.label_bytes];
            device.read_exact_at(&mut label, layout.label_at).ok()?;
            let text = label.split(|byte| *byte == 0).next().unwrap_or_default();
            Some(Self { kind: layout.kind, label: String::from_utf8_lossy(text).into_owned() })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn device(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn what_mkfs_makes_is_found() {
        for kind in ["ext2", "ext4"] {
            let file = device(8 << 20);
            let mkfs = Command::new("/sbin/mke2fs")
                .args(["-q", "-F", "-t", kind, "-L", "sixteen letters!"])
                .arg(file.path())
                .output()
                .unwrap();
            assert!(mkfs.status.success(), "{}", String::from_utf8_lossy(&mkfs.stderr));
            let found = FileSystem::find(file.as_file()).unwrap();
            assert_eq!((found.kind, found.label.as_str()), ("ext4", "sixteen letters!"));
        }
    }

    #[test]
    fn others_and_short_devices_are_none() {
        for bytes in [0, 1, 512, 1100, 8 << 20] {
            assert_eq!(FileSystem::find(device(bytes).as_file()), None);
        }
        let file = device(1 << 20);
        file.as_file().write_all_at(b"_BHRfS_M", 0x1_0040).unwrap();
        file.as_file().write_all_at(&[0xff; 256], 0x1_012b).unwrap();
        let found = FileSystem::find(file.as_file()).unwrap();
        assert_eq!((found.kind, found.label.chars().count()), ("btrfs", 256));
        file.as_file().write_all_at(b"XFSB", 0).unwrap();
        file.as_file().write_all_at(b"root\0rubbish", 0x6c).unwrap();
        let found = FileSystem::find(file.as_file()).unwrap();
        assert_eq!((found.kind, found.label.as_str()), ("xfs", "root"));
    }
}
