//! A container's root: an overlay of its image and a directory of the scratch space.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::sync::Mutex;

use crate::error::{Context, Result};
use crate::ids;
use crate::paths;
use crate::sandbox::disk::Disk;
use crate::trash;

/// The images' file systems, each mounted once however many containers use it.
#[derive(Default)]
pub struct Images {
    mounted: Mutex<HashMap<String, Mounted>>,
}

struct Mounted {
    disk: Disk,
    users: usize,
}

impl Images {
    fn place(serial: &str) -> PathBuf {
        Path::new(paths::IMAGES).join(serial)
    }

    /// Mounts the image of that disk unless it is; each call is to be matched by a [`release`](Self::release).
    async fn acquire(&self, serial: &str) -> Result<PathBuf> {
        ids::check_serial(serial)?;
        let place = Self::place(serial);
        // Held while mounting: a second container of the same image waits.
        let mut mounted = self.mounted.lock().await;
        match mounted.entry(serial.to_owned()) {
            Entry::Occupied(mut entry) => entry.get_mut().users += 1,
            Entry::Vacant(entry) => {
                let disk = Disk::find(serial)?;
                disk.mount(&place, "erofs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV, "").await?;
                entry.insert(Mounted { disk, users: 1 });
            }
        }
        Ok(place)
    }

    /// Unmounts the image when its last user goes, and waits until the host may take the disk away.
    async fn release(&self, serial: &str) -> Result<()> {
        let mut mounted = self.mounted.lock().await;
        let Some(image) = mounted.get_mut(serial) else { return Ok(()) };
        image.users = image.users.saturating_sub(1);
        if image.users > 0 {
            return Ok(());
        }
        let disk = image.disk.clone();
        mounted.remove(serial);
        unmount(&Self::place(serial))?;
        disk.released().await
    }
}

/// A container's root, mounted.
#[derive(Debug)]
pub struct Root {
    serial: String,
    place: PathBuf,
    layer: PathBuf,
}

impl Root {
    /// Mounts the image of `serial` with a writable layer for the container `id`. A read-only root has one as
    /// well: mount points that the image lacks are made in it, before the container library makes the root
    /// read-only for the container.
    pub async fn mount(images: &Images, id: &str, serial: &str) -> Result<Self> {
        let image = images.acquire(serial).await?;
        let root = Self {
            serial: serial.to_owned(),
            place: paths::bundle(id).join("rootfs"),
            layer: Path::new(paths::SCRATCH).join(id),
        };
        match root.overlay(&image) {
            Ok(()) => Ok(root),
            Err(error) => {
                if let Err(e) = root.unmount(images).await {
                    tracing::warn!("after a failed mount: {e}");
                }
                Err(error)
            }
        }
    }

    fn overlay(&self, image: &Path) -> Result<()> {
        let (upper, work) = (self.upper(), self.layer.join("work"));
        for directory in [&self.place, &upper, &work] {
            fs::create_dir_all(directory).context(|| format!("making {}", directory.display()))?;
        }
        // The layer's lifetime is the pod's: it need not survive a crash. Nothing that an image says in
        // overlayfs's own attributes is followed.
        let data = format!(
            "lowerdir={},upperdir={},workdir={},volatile,redirect_dir=nofollow,metacopy=off,index=off",
            image.display(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), &self.place, Some("overlay"), MsFlags::empty(), Some(data.as_str()))
            .context(|| format!("mounting {}", self.place.display()))?;
        // The merged root shows the upper directory's owner and mode, where the image's should be.
        copy_attributes(image, &self.place)
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The writable layer's files.
    pub fn upper(&self) -> PathBuf {
        self.layer.join("upper")
    }

    /// Unmounts the root and throws its writable layer away; can be repeated.
    pub async fn unmount(&self, images: &Images) -> Result<()> {
        unmount(&self.place)?;
        trash::discard(&self.layer)?;
        images.release(&self.serial).await
    }
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(from).context(|| format!("looking at {}", from.display()))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))
        .and_then(|()| fs::set_permissions(to, metadata.permissions()))
        .context(|| format!("setting the owner and mode of {}", to.display()))
}

fn unmount(place: &Path) -> Result<()> {
    match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted, or not even there.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        result => result.context(|| format!("unmounting {}", place.display())),
    }
}
