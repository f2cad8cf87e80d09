//! The images' file systems, each mounted once however many containers use it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use husk_proto::agent::RootFs;
use nix::mount::MsFlags;
use tokio::sync::Mutex;

use super::root::unmount;
use crate::error::Result;
use crate::ids;
use crate::paths;
use crate::sandbox::disk::Disk;
use crate::sandbox::partition::{self, Partitions};

/// Which file system: a disk's, and of a machine's disk the partition that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    serial: String,
    partition: Option<String>,
}

impl Source {
    /// What `rootfs` names, checked.
    pub fn of(rootfs: &RootFs) -> Result<Self> {
        ids::check_serial(&rootfs.image_serial)?;
        let partition = rootfs.disk.as_ref().map(|disk| disk.partition.clone());
        partition.as_deref().map(partition::check_name).transpose()?;
        Ok(Self { serial: rootfs.image_serial.clone(), partition })
    }
}

/// What is mounted.
#[derive(Default)]
pub struct Images {
    mounted: Mutex<Mounts>,
}

#[derive(Default)]
struct Mounts {
    all: HashMap<Source, Mounted>,
    /// How many there have been of machines' disks: their mount points have numbers.
    numbered: u64,
}

struct Mounted {
    disk: Disk,
    place: PathBuf,
    users: usize,
}

impl Images {
    /// Mounts the file system unless it is; each call is to be matched by a [`release`](Self::release).
    pub async fn acquire(&self, source: &Source, rootfs: &RootFs) -> Result<PathBuf> {
        // Held while mounting: a second container of the same image waits.
        let mut mounts = self.mounted.lock().await;
        if let Some(mounted) = mounts.all.get_mut(source) {
            mounted.users += 1;
            return Ok(mounted.place.clone());
        }
        let disk = Disk::find(&source.serial)?;
        let mut place = Path::new(paths::IMAGES).join(&source.serial);
        match &rootfs.disk {
            None => disk.mount(&place, "erofs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV, "").await?,
            Some(machine) => {
                mounts.numbered += 1;
                place = Path::new(paths::IMAGES).join(format!("{}.{}", source.serial, mounts.numbered));
                disk.arrived(machine.bytes).await?;
                let partitions = Partitions::of(&disk);
                let alone = !mounts.uses(&source.serial);
                let read = if alone { partitions.read() } else { Ok(()) };
                if let Err(error) = read.and_then(|()| partitions.mount(&machine.partition, &place)) {
                    if alone && let Err(e) = partitions.forget() {
                        tracing::warn!("after a failed mount: {e}");
                    }
                    return Err(error);
                }
            }
        }
        mounts.all.insert(source.clone(), Mounted { disk, place: place.clone(), users: 1 });
        Ok(place)
    }

    /// Unmounts the file system when its last user goes, and waits until the host may take the disk away.
    pub async fn release(&self, source: &Source) -> Result<()> {
        let mut mounts = self.mounted.lock().await;
        let Some(mounted) = mounts.all.get_mut(source) else { return Ok(()) };
        mounted.users = mounted.users.saturating_sub(1);
        if mounted.users > 0 {
            return Ok(());
        }
        let (disk, place) = (mounted.disk.clone(), mounted.place.clone());
        mounts.all.remove(source);
        unmount(&place)?;
        if mounts.uses(&source.serial) {
            return Ok(());
        }
        disk.released().await?;
        if source.partition.is_some() { Partitions::of(&disk).forget() } else { Ok(()) }
    }
}

impl Mounts {
    /// Whether anything of that disk is mounted.
    fn uses(&self, serial: &str) -> bool {
        self.all.keys().any(|source| source.serial == serial)
    }
}
