//! A container's root: an overlay of its image and a directory of the scratch space.

use std::fs;
use std::path::{Path, PathBuf};

use husk_proto::agent::RootFs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::idmapped;
use super::images::{Images, Source};
use super::namespaces::PodUsers;
use crate::error::{Context, Result};
use crate::paths;
use crate::trash;

/// A container's root, mounted.
#[derive(Debug)]
pub struct Root {
    image: Source,
    place: PathBuf,
    layer: PathBuf,
}

impl Root {
    /// Mounts the image that `rootfs` names with a writable layer for the container `id`. A read-only root has one as
    /// well: mount points that the image lacks are made in it, before the container library makes the root
    /// read-only for the container. To `users` the image's files are as if their ids were meant.
    pub async fn mount(images: &Images, id: &str, rootfs: &RootFs, users: Option<&PodUsers>) -> Result<Self> {
        let source = Source::of(rootfs)?;
        let image = images.acquire(&source, rootfs).await?;
        let root = Self {
            image: source,
            place: paths::bundle(id).join("rootfs"),
            layer: Path::new(paths::SCRATCH).join(id),
        };
        match root.overlay(&image, users) {
            Ok(()) => Ok(root),
            Err(error) => {
                if let Err(e) = root.unmount(images).await {
                    tracing::warn!("after a failed mount: {e}");
                }
                Err(error)
            }
        }
    }

    fn overlay(&self, image: &Path, users: Option<&PodUsers>) -> Result<()> {
        let Some(users) = users else { return self.overlay_of(image) };
        let lower = self.layer.join("lower");
        fs::create_dir_all(&lower).context(|| format!("making {}", lower.display()))?;
        idmapped::mount(image, &lower, users)?;
        let mounted = self.overlay_of(&lower);
        // The overlay has its own hold of it. What is written has the ids as they are in the guest.
        unmount(&lower)?;
        mounted
    }

    fn overlay_of(&self, image: &Path) -> Result<()> {
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
        images.release(&self.image).await
    }
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(from).context(|| format!("looking at {}", from.display()))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))
        .and_then(|()| fs::set_permissions(to, metadata.permissions()))
        .context(|| format!("setting the owner and mode of {}", to.display()))
}

pub(super) fn unmount(place: &Path) -> Result<()> {
    match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted, or not even there.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        result => result.context(|| format!("unmounting {}", place.display())),
    }
}
