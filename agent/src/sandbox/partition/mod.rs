//! The disk of a machine: which of its partitions is a container's root, and how it is mounted.
//!
//! The kernel reads the partition table (GPT or MBR, with its own checks) and mounts the file system; here is only
//! the choice between what it found.

mod filesystem;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use self::filesystem::FileSystem;
use super::disk::Disk;
use crate::error::{Context, Error, Result};
use crate::sys;

/// The longest name of a partition that may be asked for, in bytes: a Btrfs label's.
const MAX_NAME: usize = 255;
/// The most partitions that an error lists.
const MAX_SHOWN: usize = 20;

/// Checks the name of a partition that was asked for.
pub fn check_name(name: &str) -> Result<()> {
    if name.len() <= MAX_NAME && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::Invalid(format!("a partition's name has at most {MAX_NAME} bytes, none of them a control's")))
}

/// A disk and the partitions that the kernel knows of it.
pub struct Partitions<'a> {
    disk: &'a Disk,
}

/// One partition, or the whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Partition {
    device: PathBuf,
    /// 0 for the whole disk.
    number: u32,
    bytes: u64,
    /// In the partition table.
    label: String,
    file_system: Option<FileSystem>,
}

impl<'a> Partitions<'a> {
    /// Those of `disk`.
    pub fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    fn open(&self) -> Result<File> {
        let node = self.disk.node();
        File::open(&node).context(|| format!("opening {}", node.display()))
    }

    /// Has the kernel read the partition table. Nothing of the disk may be mounted.
    pub fn read(&self) -> Result<()> {
        let disk = self.open()?;
        let name = self.disk.name();
        // What is mounted read-only is not even to be mended on the disk, which the host would refuse.
        sys::set_disk_read_only(disk.as_fd(), true).context(|| format!("making {name} read-only"))?;
        sys::rescan_partitions(disk.as_fd()).context(|| format!("reading the partitions of {name}"))
    }

    /// Makes the disk as it was before [`Self::read`]: its slot may hold another next.
    pub fn forget(&self) -> Result<()> {
        let disk = self.open()?;
        let name = self.disk.name();
        for (number, _) in self.numbers()? {
            sys::forget_partition(disk.as_fd(), number)
                .context(|| format!("forgetting partition {number} of {name}"))?;
        }
        sys::set_disk_read_only(disk.as_fd(), false).context(|| format!("making {name} writable again"))
    }

    /// Mounts the partition called `name` on `place`, read-only.
    pub fn mount(&self, name: &str, place: &Path) -> Result<()> {
        let all = self.all()?;
        let (partition, file_system) = choose(&all, name)?;
        fs::create_dir_all(place).context(|| format!("making {}", place.display()))?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
        let (device, kind) = (&partition.device, file_system.kind);
        let what = || format!("mounting {kind} from {}", device.display());
        match mount(Some(device), place, Some(kind), flags, None::<&str>) {
            Ok(()) => Ok(()),
            Err(Errno::ENODEV) => Err(Error::State(format!(
                "{} is a {kind} file system, which the guest's kernel does not have",
                device.display()
            ))),
            Err(Errno::EROFS) => Err(Error::State(format!(
                "{}: its file system was not unmounted cleanly, and an image is never written to; boot the machine \
                 and shut it down, or check its file system, before the image is taken",
                what()
            ))),
            Err(errno) => Err(errno).context(what),
        }
    }

    /// The numbers of the partitions and their directories in sysfs.
    fn numbers(&self) -> Result<Vec<(u32, PathBuf)>> {
        let directory = self.disk.directory();
        let entries = fs::read_dir(&directory).context(|| format!("listing {}", directory.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.context(|| format!("listing {}", directory.display()))?.path();
            // What is no partition has no such file.
            let number = fs::read_to_string(path.join("partition")).ok();
            if let Some(number) = number.and_then(|text| text.trim().parse().ok()) {
                found.push((number, path));
            }
        }
        found.sort();
        Ok(found)
    }

    fn all(&self) -> Result<Vec<Partition>> {
        let mut all = vec![self.describe(0, &self.disk.directory())?];
        for (number, path) in self.numbers()? {
            all.push(self.describe(number, &path)?);
        }
        Ok(all)
    }

    fn describe(&self, number: u32, directory: &Path) -> Result<Partition> {
        let text = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).context(|| format!("reading {}", path.display()))
        };
        let sectors: u64 = text("size")?.trim().parse().unwrap_or(0);
        let label =
            text("uevent")?.lines().find_map(|line| line.strip_prefix("PARTNAME=").map(str::to_owned));
        let device = Path::new("/dev").join(directory.file_name().unwrap_or_default());
        let content = File::open(&device).context(|| format!("opening {}", device.display()))?;
        Ok(Partition {
            number,
            bytes: sectors.saturating_mul(512),
            label: label.unwrap_or_default(),
            file_system: FileSystem::find(&content),
            device,
        })
    }
}

/// The partition called `name`, or the largest with a file system; the whole disk only if it is named or is not
/// divided.
fn choose<'a>(all: &'a [Partition], name: &str) -> Result<(&'a Partition, &'a FileSystem)> {
    let divided = all.iter().any(|partition| partition.number != 0);
    let wanted: Vec<&Partition> = match (name, name.parse::<u32>()) {
        ("", _) => all.iter().filter(|partition| (partition.number != 0) == divided).collect(),
        (_, Ok(number)) => all.iter().filter(|partition| partition.number == number).collect(),
        _ => all.iter().filter(|partition| partition.is_called(name)).collect(),
    };
    // Of several with one label, and of several of one size, the first.
    let largest =
        wanted.iter().rev().filter_map(|partition| Some((*partition, partition.file_system.as_ref()?)));
    match largest.max_by_key(|(partition, _)| partition.bytes) {
        Some(found) => Ok(found),
        None => Err(Error::NotFound(refusal(all, &wanted, name))),
    }
}

fn refusal(all: &[Partition], wanted: &[&Partition], name: &str) -> String {
    let shown: Vec<String> = all.iter().take(MAX_SHOWN).map(Partition::show).collect();
    let what = match wanted {
        [] => format!("no partition {name:?}"),
        _ => "no file system that the guest may know (ext2 to ext4, XFS, Btrfs) where it is to be".into(),
    };
    format!("the disk has {what}; it has: {}", shown.join("; "))
}

impl Partition {
    fn is_called(&self, name: &str) -> bool {
        self.label == name || self.file_system.as_ref().is_some_and(|found| found.label == name)
    }

    fn show(&self) -> String {
        let place = if self.number == 0 { "0 (the whole disk)".into() } else { self.number.to_string() };
        let kind = match &self.file_system {
            Some(found) if found.label.is_empty() => found.kind.to_owned(),
            Some(found) => format!("{} {:?}", found.kind, found.label),
            None => "no such file system".into(),
        };
        format!("{place} {:?}, {} MiB, {kind}", self.label, self.bytes >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32, mib: u64, label: &str, file_system: Option<(&'static str, &str)>) -> Partition {
        Partition {
            device: format!("/dev/vda{number}").into(),
            number,
            bytes: mib << 20,
            label: label.into(),
            file_system: file_system.map(|(kind, label)| FileSystem { kind, label: label.into() }),
        }
    }

    /// As of a cloud image: an EFI partition, /boot, a root, and more space without a file system.
    fn cloud() -> Vec<Partition> {
        vec![
            partition(0, 4096, "", None),
            partition(1, 2000, "root", Some(("ext4", "cloudimg-rootfs"))),
            partition(2, 2000, "twin", Some(("xfs", ""))),
            partition(14, 4, "", None),
            partition(15, 100, "EFI", None),
            partition(16, 900, "boot", Some(("ext4", "2"))),
            partition(17, 3000, "", None),
        ]
    }

    fn number(all: &[Partition], name: &str) -> Option<u32> {
        choose(all, name).ok().map(|(partition, _)| partition.number)
    }

    #[test]
    fn the_largest_is_chosen_or_the_one_that_is_named() {
        let all = cloud();
        for (name, expected) in
            [("", 1), ("1", 1), ("16", 16), ("boot", 16), ("cloudimg-rootfs", 1), ("twin", 2), ("2", 2)]
        {
            assert_eq!(number(&all, name), Some(expected), "{name:?}");
        }
        let whole = [partition(0, 100, "", Some(("btrfs", "data")))];
        for name in ["", "0", "data"] {
            assert_eq!(number(&whole, name), Some(0), "{name:?}");
        }
        // A file system around the partitions is taken only by its number.
        let both = [whole[0].clone(), partition(1, 10, "", Some(("ext4", "")))];
        assert_eq!((number(&both, ""), number(&both, "0")), (Some(1), Some(0)));
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let all = cloud();
        for name in ["3", "absent", "15", "0", "EFI", "4294967296", "-1"] {
            let Err(Error::NotFound(text)) = choose(&all, name) else { panic!("{name:?} was found") };
            assert!(text.contains("16 \"boot\", 900 MiB, ext4 \"2\""), "{text}");
        }
        assert!(choose(&[partition(0, 1, "", None)], "").is_err());
    }

    #[test]
    fn names_are_checked() {
        check_name("cloudimg-rootfs").unwrap();
        check_name("").unwrap();
        for bad in ["a\nb", "\0", &"n".repeat(256)] {
            assert!(matches!(check_name(bad), Err(Error::Invalid(_))));
        }
    }
}
