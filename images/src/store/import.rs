//! Importing: images from a local path.

use std::path::Path;

use tokio::task::spawn_blocking;

use super::{Image, ImageStore};
use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::layout::{Layout, Selected};
use crate::progress::{Progress, Silent};
use crate::reference::{Reference, Version};
use crate::source::Source;

impl ImageStore {
    /// Reads an image from the OCI layout in the directory `layout`: the one annotated as `tag`, or the only
    /// one. It is named if its annotation is a whole reference.
    ///
    /// # Errors
    /// [`ImageError`], as for a pull.
    pub async fn import_layout(&self, layout: &Path, tag: Option<&str>) -> Result<Image> {
        let images = self.import(layout, tag, None, &Silent).await?;
        images.into_iter().next().ok_or_else(|| ImageError::NotFound(layout.display().to_string()))
    }

    /// Reads images from `path`: an OCI layout in a directory or a tar archive, or an archive of `docker save`.
    /// Of those in it the one called `tag` is taken; without a tag the only one of a directory, and all of an
    /// archive. They are called what the layout says, or the only one is called `name`.
    ///
    /// # Errors
    /// [`ImageError`], as for a pull.
    pub async fn import(
        &self,
        path: &Path,
        tag: Option<&str>,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>> {
        let name = name.map(given_name).transpose()?;
        let path = path.to_owned();
        let opened = spawn_blocking(move || Layout::open(&path)).await;
        let layout = opened.map_err(std::io::Error::other).during(|| "reading an archive".into())??;
        let mut selected = layout.select(tag)?;
        if let Some(name) = name {
            let [only] = &mut selected[..] else {
                return Err(ImageError::InvalidReference {
                    reference: name.to_string(),
                    reason: format!("{} has {} images, which cannot share it", layout.name(), selected.len()),
                });
            };
            only.names = vec![name];
        }
        let source = Source::Layout(layout);
        let mut images = Vec::new();
        for Selected { entry, names, is_oci } in selected {
            let top = source.manifest(entry.digest().as_ref()).await?;
            let what = names.first().map_or_else(|| source.name(), ToString::to_string);
            let mut given: Vec<String> = names.iter().map(ToString::to_string).collect();
            if is_oci {
                given.extend(names.iter().map(|name| name.at(&digest::of(&top)).to_string()));
            }
            images.push(self.inner.fetch(&source, &top, &what, given, progress).await?);
        }
        Ok(images)
    }
}

/// The complete reference `name`, which must be free to name anything.
pub(super) fn given_name(name: &str) -> Result<Reference> {
    let reference = Reference::parse(name)?;
    match reference.version {
        Version::Tag(_) => Ok(reference),
        Version::Digest(_) => Err(ImageError::InvalidReference {
            reference: name.to_owned(),
            reason: "a name to give has a tag, not a digest".into(),
        }),
    }
}
