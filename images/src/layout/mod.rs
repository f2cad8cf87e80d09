//! Images from a local path: an OCI image layout (OCI image specification, "Image Layout") in a directory or an
//! archive, or an archive of `docker save`.

mod archive;
mod docker;
mod place;

use std::path::Path;

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageIndex};

use crate::digest;
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use docker::DockerArchive;
use place::Place;
pub(crate) use place::{Slice, open_regular};

/// The annotations that name a manifest: a tag by the OCI, a whole reference by containerd.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The file that says that this is a layout.
const MARKER: &str = "oci-layout";
/// Names listed in an error.
const SHOWN_MAX: usize = 20;

/// A layout's files.
#[derive(Debug)]
pub(crate) struct Layout {
    place: Place,
    /// If it is an archive of `docker save` without being an OCI layout as well.
    docker: Option<DockerArchive>,
}

/// An image of a layout.
#[derive(Debug)]
pub(crate) struct Selected {
    /// Its manifest or index.
    pub(crate) entry: Descriptor,
    /// The complete references that it is called.
    pub(crate) names: Vec<Reference>,
    /// Whether its manifest is one that a registry could have, too.
    pub(crate) is_oci: bool,
}

impl Layout {
    /// Opens the directory or archive at `path`, which must say that it is a layout. An archive is read to its
    /// end.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let place = Place::open(path)?;
        if let Place::Archive(archive) = &place
            && archive.find(MARKER).is_none()
        {
            if archive.find(docker::MANIFEST).is_none() {
                let what = "an image (neither oci-layout nor manifest.json is there)";
                return Err(ImageError::NotFound(format!("{what} in {}", place.name())));
            }
            let docker = Some(docker::read(&place)?);
            return Ok(Self { place, docker });
        }
        let marker: serde_json::Value = serde_json::from_slice(&place.read(MARKER)?)
            .map_err(|e| ImageError::Corrupt(format!("{}/{MARKER}: {e}", place.name())))?;
        match marker.get("imageLayoutVersion").and_then(|version| version.as_str()) {
            Some(version) if version.starts_with("1.") => Ok(Self { place, docker: None }),
            version => {
                let shown = version.map(digest::clip);
                Err(ImageError::Unsupported(format!("{}: layout version {shown:?}", place.name())))
            }
        }
    }

    /// The path, for messages.
    pub(crate) fn name(&self) -> String {
        self.place.name()
    }

    /// What is called `tag`; without one, the only image of a directory, or all images of an archive.
    pub(crate) fn select(&self, tag: Option<&str>) -> Result<Vec<Selected>> {
        let images = self.images()?;
        let is_called = |image: &Selected, tag: &str| {
            let wanted = Reference::parse(tag).ok();
            annotations(&image.entry).any(|name| name == tag)
                || wanted.is_some_and(|wanted| image.names.contains(&wanted))
        };
        let found: Vec<_> = match (tag, &self.place) {
            (None, Place::Dir(_)) if images.len() != 1 => Vec::new(),
            (None, _) => (0..images.len()).collect(),
            (Some(tag), _) => images.iter().position(|image| is_called(image, tag)).into_iter().collect(),
        };
        if found.is_empty() {
            return Err(self.not_selected(tag, &images));
        }
        let chosen = images.into_iter().enumerate().filter(|(number, _)| found.contains(number));
        Ok(chosen.map(|(_, image)| image).collect())
    }

    fn images(&self) -> Result<Vec<Selected>> {
        if let Some(docker) = &self.docker {
            let images = docker.images.iter().cloned();
            return Ok(images.map(|(entry, names)| Selected { entry, names, is_oci: false }).collect());
        }
        let index: ImageIndex = serde_json::from_slice(&self.place.read("index.json")?)
            .map_err(|e| ImageError::Corrupt(format!("{}/index.json: {e}", self.name())))?;
        let entries = index.manifests().iter().cloned();
        Ok(entries
            .map(|entry| {
                // A bare tag names no repository.
                let whole = annotations(&entry).filter(|name| name.contains([':', '/']));
                let names: Vec<_> = whole.filter_map(|name| Reference::parse(name).ok()).take(1).collect();
                Selected { names, entry, is_oci: true }
            })
            .collect())
    }

    fn not_selected(&self, tag: Option<&str>, images: &[Selected]) -> ImageError {
        let shown = |image: &Selected| match image.names.first() {
            Some(name) => format!("{:?}", name.to_string()),
            None => format!("{:?}", digest::clip(annotations(&image.entry).next().unwrap_or_default())),
        };
        let names: Vec<String> = images.iter().take(SHOWN_MAX).map(shown).collect();
        ImageError::NotFound(match tag {
            Some(tag) => format!("tag {tag:?} in {} (it has: {})", self.name(), names.join(", ")),
            None => format!("a single image in {}: name one of {}; it was", self.name(), names.join(", ")),
        })
    }

    /// A whole blob of at most [`crate::manifest::DOCUMENT_MAX`] bytes, verified.
    pub(crate) fn document(&self, digest: &str) -> Result<Bytes> {
        if let Some(manifest) = self.docker.as_ref().and_then(|docker| docker.manifests.get(digest)) {
            return Ok(manifest.clone());
        }
        let bytes = self.place.read(&self.path_of(digest)?)?;
        digest::verify(&bytes, digest)?;
        Ok(bytes.into())
    }

    /// A blob's file, of `size` bytes.
    pub(crate) fn blob(&self, digest: &str, size: u64) -> Result<Slice> {
        let slice = self.place.file(&self.path_of(digest)?)?;
        if slice.length != size {
            return Err(ImageError::Corrupt(format!(
                "the blob {digest} has {} bytes instead of {size}",
                slice.length
            )));
        }
        Ok(slice)
    }

    fn path_of(&self, digest: &str) -> Result<String> {
        let hex = digest::hex(digest)?;
        let member = self.docker.as_ref().and_then(|docker| docker.members.get(digest));
        Ok(member.cloned().unwrap_or_else(|| format!("blobs/sha256/{hex}")))
    }
}

/// What a manifest is called, the whole reference first.
fn annotations(entry: &Descriptor) -> impl Iterator<Item = &str> {
    let all = entry.annotations().as_ref();
    [IMAGE_NAME, REF_NAME].into_iter().filter_map(move |key| Some(all?.get(key)?.as_str()))
}
