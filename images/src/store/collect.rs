//! Removal: of one image, or of all that nobody uses.

use std::collections::BTreeSet;

use husk_failpoint::reach;

use super::pins::Wanted;
use super::{Image, ImageStore, Inner, Usage};
use crate::error::Result;

/// What a collection removed.
#[derive(Clone, Debug)]
pub struct Freed {
    /// The images.
    pub images: Vec<Image>,
    /// What they and the layers of none took, on disk.
    pub usage: Usage,
    /// What pulls and removals that were cut short had left when the store was opened.
    pub leftovers: Usage,
}

impl ImageStore {
    /// Removes the image of that id or reference, all references to it, and the layers that no other image
    /// has. One that is not there is no error. Whoever has the disk's files open keeps them.
    ///
    /// # Errors
    /// [`crate::ImageError::InvalidReference`], [`crate::ImageError::Io`].
    pub fn remove(&self, name_or_id: &str) -> Result<()> {
        let pins = self.inner.pins.lock();
        match self.inner.find(name_or_id)? {
            Some(id) => self.inner.collect(&pins, [id].into()),
            None => Ok(()),
        }
    }

    /// Removes the images without a tag, or `all`, but neither those in `used` (ids) nor pinned ones; and every
    /// layer that no image and no pull under way has.
    ///
    /// # Errors
    /// [`crate::ImageError::Io`].
    pub fn prune(&self, used: &BTreeSet<String>, all: bool) -> Result<Freed> {
        let mut images = self.list()?;
        images.retain(|image| {
            !image.pinned && !used.contains(&image.id) && (all || image.repo_tags.is_empty())
        });
        let before = self.usage()?;
        let mut pins = self.inner.pins.lock();
        pins.keep_unfinished(BTreeSet::new());
        self.inner.collect(&pins, images.iter().map(|image| image.id.clone()).collect())?;
        drop(pins);
        let after = self.usage()?;
        let usage = Usage {
            bytes: before.bytes.saturating_sub(after.bytes),
            inodes: before.inodes.saturating_sub(after.inodes),
        };
        Ok(Freed { images, usage, leftovers: self.swept })
    }
}

impl Inner {
    /// Removes the images `gone` and every layer that neither an image nor a pull wants. `pins` is the held
    /// lock.
    pub(super) fn collect(&self, pins: &Wanted, gone: BTreeSet<String>) -> Result<()> {
        let mut images = self.index.images()?;
        images.retain(|id, _| !gone.contains(id));
        let used: BTreeSet<&String> = images.values().flat_map(|image| &image.layers).collect();
        let mut layers: BTreeSet<String> = self.index.layers()?.into_keys().collect();
        layers.retain(|diff_id| !used.contains(diff_id) && !pins.has(diff_id));
        self.forget(&gone, &layers)
    }

    /// Removes `images` and `layers`, their records first: whatever happens to the files then, nothing points at a
    /// missing one. To be called under the lock of the pins.
    pub(super) fn forget(&self, images: &BTreeSet<String>, layers: &BTreeSet<String>) -> Result<()> {
        if images.is_empty() && layers.is_empty() {
            return Ok(());
        }
        self.index.delete(images, layers)?;
        reach(format_args!("forgot images"));
        for id in images {
            self.files.discard(&self.files.image(id)?)?;
            reach(format_args!("removed an image's files"));
        }
        for diff_id in layers {
            self.files.discard(&self.files.layer(diff_id)?)?;
            reach(format_args!("removed a layer's files"));
        }
        Ok(())
    }
}
