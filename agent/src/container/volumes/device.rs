//! Device nodes: of block devices whose medium is the host's, and of devices of the guest's own kernel.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use husk_proto::GUEST_DEVICES;
use husk_proto::agent::{DeviceVolume, device_volume};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::error::{Context, Error, Result};
use crate::sandbox::disk::Disk;
use crate::sandbox::partition::Partitions;
use crate::sys;

/// The permissions that a node may have.
const MODE: u32 = 0o777;

/// A device of the guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// A block device, and no character device.
    pub block: bool,
    pub major: u64,
    pub minor: u64,
}

impl Device {
    /// The one that has a node at `path`.
    fn at(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).context(|| format!("looking at {}", path.display()))?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(Error::Internal(format!("{} is no device", path.display())));
        }
        let number = metadata.rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        Ok(Self { block: kind.is_block_device(), major, minor })
    }

    fn kind(self) -> LinuxDeviceType {
        if self.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
    }

    /// Major and minor number as the OCI runtime spec has them.
    fn numbers(self) -> (i64, i64) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        (number(self.major), number(self.minor))
    }
}

/// The block devices that containers use as such, and how many do.
#[derive(Default)]
pub struct Media(tokio::sync::Mutex<HashMap<String, usize>>);

impl Media {
    /// One user more of the device with the serial of `volume`; each call is to be matched by a
    /// [`release`](Self::release).
    async fn acquire(&self, serial: &str, volume: &DeviceVolume) -> Result<Disk> {
        let disk = Disk::find(serial)?;
        let mut users = self.0.lock().await;
        if !users.contains_key(serial) {
            disk.arrived(volume.bytes).await?;
            set_read_only(&disk, volume.read_only)?;
        }
        *users.entry(serial.to_owned()).or_default() += 1;
        Ok(disk)
    }

    /// One user less. After the last, all that was written is with the host, and it may take the medium away.
    pub async fn release(&self, serial: &str) -> Result<()> {
        let mut users = self.0.lock().await;
        let Some(number) = users.get_mut(serial) else { return Ok(()) };
        *number = number.saturating_sub(1);
        if *number > 0 {
            return Ok(());
        }
        users.remove(serial);
        let disk = Disk::find(serial)?;
        disk.written().await?;
        // Those that a container has had the kernel look for.
        Partitions::of(&disk).forget()
    }
}

fn set_read_only(disk: &Disk, read_only: bool) -> Result<()> {
    let node = disk.node();
    let file = fs::File::open(&node).context(|| format!("opening {}", node.display()))?;
    sys::set_disk_read_only(file.as_fd(), read_only)
        .context(|| format!("setting whether {} can be written to", node.display()))
}

/// The device that `volume` names, and the serial that is to be released for it.
pub async fn find(media: &Media, volume: &DeviceVolume) -> Result<(Device, Option<String>)> {
    match &volume.device {
        Some(device_volume::Device::Serial(serial)) => {
            let disk = media.acquire(serial, volume).await?;
            match Device::at(&disk.node()) {
                Ok(device) => Ok((device, Some(serial.clone()))),
                Err(error) => {
                    media.release(serial).await?;
                    Err(error)
                }
            }
        }
        Some(device_volume::Device::Guest(name)) => {
            if !GUEST_DEVICES.contains(&name.as_str()) {
                return Err(Error::Invalid(format!(
                    "{:?} is no device that containers have: there are {}",
                    name.chars().take(64).collect::<String>(),
                    GUEST_DEVICES.join(", ")
                )));
            }
            let path = Path::new("/dev").join(name);
            if !path.exists() {
                return Err(Error::State(format!("the guest's kernel has no {}", path.display())));
            }
            Ok((Device::at(&path)?, None))
        }
        None => Err(Error::Invalid("a device volume names no device".into())),
    }
}

/// The rule by which a container may use the device.
pub fn rule(device: &Device, access: &str) -> Result<LinuxDeviceCgroup> {
    if access.is_empty() || !access.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(Error::Invalid(format!("access {access:?} to a device is not made of r, w and m")));
    }
    let (major, minor) = device.numbers();
    LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(device.kind())
        .major(major)
        .minor(minor)
        .access(access)
        .build()
        .map_err(|e| Error::Internal(format!("the rule of a device: {e}")))
}

/// A node that a container is to have of a device, its alone to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    device: Device,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    /// The one that `volume` asks for.
    pub fn new(device: Device, volume: &DeviceVolume) -> Self {
        Self { device, mode: volume.mode & MODE, uid: volume.uid, gid: volume.gid }
    }

    /// For the container library to make at `path` in the container's own /dev.
    pub fn at(&self, path: &Path) -> Result<LinuxDevice> {
        let (major, minor) = self.device.numbers();
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(self.device.kind())
            .major(major)
            .minor(minor)
            .file_mode(self.mode)
            .uid(self.uid)
            .gid(self.gid)
            .build()
            .map_err(|e| Error::Internal(format!("the device node {}: {e}", path.display())))
    }
}

/// Makes a node at `place`, for a bind mount.
pub fn make_node(place: &Path, node: &Node) -> Result<()> {
    let failed = || format!("making the device node {}", place.display());
    if let Some(directory) = place.parent() {
        fs::create_dir_all(directory).context(failed)?;
    }
    let Node { device, mode, uid, gid } = *node;
    let kind = if device.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    mknod(place, kind, Mode::empty(), makedev(device.major, device.minor)).context(failed)?;
    chown(place, Some(uid), Some(gid)).context(failed)?;
    fs::set_permissions(place, fs::Permissions::from_mode(mode)).context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_device_and_nothing_else() {
        let device = Device { block: true, major: 254, minor: 32 };
        let made = rule(&device, "r").unwrap();
        assert_eq!((made.allow(), made.typ()), (true, Some(LinuxDeviceType::B)));
        assert_eq!((made.major(), made.minor()), (Some(254), Some(32)));
        assert_eq!(made.access().as_deref(), Some("r"));
        for access in ["", "x", "rwmx", "R"] {
            assert!(matches!(rule(&device, access), Err(Error::Invalid(_))), "{access:?}");
        }
    }

    #[test]
    fn a_node_is_as_the_request_says() {
        let device = Device { block: true, major: 254, minor: 16 };
        let volume = DeviceVolume { mode: 0o40640, uid: 12, gid: 34, ..DeviceVolume::default() };
        let made = Node::new(device, &volume).at(Path::new("/dev/xvda")).unwrap();
        assert_eq!((made.typ(), made.major(), made.minor()), (LinuxDeviceType::B, 254, 16));
        assert_eq!((made.file_mode(), made.uid(), made.gid()), (Some(0o640), Some(12), Some(34)));
        assert_eq!(made.path(), Path::new("/dev/xvda"));
    }

    #[tokio::test]
    async fn only_harmless_devices_of_the_guest_are_there() {
        let named = |name: &str| DeviceVolume {
            device: Some(device_volume::Device::Guest(name.into())),
            ..DeviceVolume::default()
        };
        let media = Media::default();
        let (null, held) = find(&media, &named("null")).await.unwrap();
        assert_eq!((null, held), (Device { block: false, major: 1, minor: 3 }, None));
        for name in ["", "mem", "vda", "vsock", "../dev/null", "/dev/null", "net"] {
            assert!(matches!(find(&media, &named(name)).await, Err(Error::Invalid(_))), "{name:?}");
        }
        assert!(find(&media, &DeviceVolume::default()).await.is_err());
    }
}
