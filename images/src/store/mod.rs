//! The content store: layers by diff-id, images by the digest of their configuration.

mod collect;
mod disk;
mod fetch;
mod files;
mod import;
mod import_disk;
mod index;
mod locks;
mod mend;
mod pins;
mod pipeline;
mod pull;
mod seal;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::config::RegistryConfig;
use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::manifest::parse_config;
use crate::reference::Reference;
use crate::registry::Http;
use crate::worker::Workers;

pub use collect::Freed;
use files::Files;
pub use files::Usage;
use index::Index;
use locks::Locks;
use pins::Pins;
pub use verify::{Damage, Verified};

/// Shortest beginning of an id that is taken for one.
const PREFIX_MIN: usize = 6;

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// "sha256:…" of its configuration.
    pub id: String,
    /// Complete references with tags, sorted.
    pub repo_tags: Vec<String>,
    /// Complete references with digests, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of its disk and its layers' trees; layers may be shared with other images. Of a disk image what it
    /// takes without its holes.
    pub size: u64,
    /// Whether it is the disk of a machine, whose partitions and file systems are the guest's to find; otherwise
    /// an EROFS file system.
    pub is_disk: bool,
    /// Whether it must not be removed to win space ([`RegistryConfig::pinned`]).
    pub pinned: bool,
    /// Its configuration.
    pub config: ImageConfiguration,
}

/// An image's read-only disk: an EROFS file system in pieces, or the disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The pieces, one behind the other.
    pub extents: Vec<DiskExtent>,
}

/// A piece of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskExtent {
    /// The file; once opened it can be read though the image be removed.
    pub file: PathBuf,
    /// Where the piece begins in it, in bytes.
    pub offset: u64,
    /// Bytes, a multiple of 4096; of a machine's disk, of 512.
    pub length: u64,
}

/// The images of a node.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
    /// What opening it removed.
    swept: Usage,
}

/// What pulls share.
pub(crate) struct Inner {
    pub(crate) files: Files,
    pub(crate) index: Index,
    pub(crate) pins: Pins,
    pub(crate) locks: Locks,
    pub(crate) http: Http,
    pub(crate) workers: Workers,
    pub(crate) config: RegistryConfig,
}

impl ImageStore {
    /// Opens or makes the store in `root` and removes what unfinished pulls and removals left in it.
    ///
    /// # Errors
    /// [`ImageError::InUse`] if another process has it open for longer than a second, [`ImageError::Io`].
    pub fn open(root: &Path, config: RegistryConfig) -> Result<Self> {
        let files = Files::open(root)?;
        let index = Index::open(&files.index())?;
        let (pins, locks, workers) = (Pins::default(), Locks::default(), Workers::new(&config));
        let inner = Inner { files, index, pins, locks, http: Http::new()?, workers, config };
        let swept = inner.mend()?;
        Ok(Self { inner: Arc::new(inner), swept })
    }

    /// The image of that id ("sha256:…", or the first six or more of its digits where they are unique) or
    /// reference.
    ///
    /// # Errors
    /// [`ImageError::InvalidReference`] for what is neither, or for digits that fit several ids.
    pub fn status(&self, name_or_id: &str) -> Result<Option<Image>> {
        self.inner.find(name_or_id)?.map_or(Ok(None), |id| self.inner.view_by_id(&id))
    }

    /// All images, by id.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn list(&self) -> Result<Vec<Image>> {
        let references = self.inner.index.references()?;
        self.inner.index.images()?.iter().map(|(id, image)| self.inner.view(id, image, &references)).collect()
    }

    /// The disk of the image `id`.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn disk(&self, id: &str) -> Result<Disk> {
        let missing = || ImageError::NotFound(format!("image {:?}", digest::clip(id)));
        let record = self.inner.index.image(id)?.ok_or_else(missing)?;
        let meta = self.inner.files.image(id)?.join("meta");
        let mut extents = Vec::with_capacity(1 + record.layers.len());
        if !record.is_disk() {
            extents.push(DiskExtent { file: meta, offset: 0, length: record.meta.length });
        }
        for diff_id in &record.layers {
            let length = self.inner.index.layer(diff_id)?.ok_or_else(missing)?.data.length;
            if length != 0 {
                extents.push(DiskExtent {
                    file: self.inner.files.layer(diff_id)?.join("data"),
                    offset: 0,
                    length,
                });
            }
        }
        Ok(Disk { extents })
    }

    /// What all images and unfinished pulls take on disk.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn usage(&self) -> Result<Usage> {
        self.inner.files.usage()
    }
}

impl Inner {
    /// The id that a name or the beginning of an id stands for.
    fn find(&self, name_or_id: &str) -> Result<Option<String>> {
        let hex = name_or_id.strip_prefix("sha256:");
        if let Some(hex) = hex
            && hex.len() == 64
            && digest::is_hex(hex)
        {
            return Ok(self.index.image(name_or_id)?.map(|_| name_or_id.to_owned()));
        }
        let reference = Reference::parse(name_or_id);
        if let Ok(reference) = &reference
            && let Some(id) = self.index.resolve(&reference.to_string())?
        {
            return Ok(Some(id));
        }
        let digits = hex.unwrap_or(name_or_id);
        if digits.len() < PREFIX_MIN || !digest::is_hex(digits) {
            return reference.map(|_| None);
        }
        let prefix = format!("sha256:{digits}");
        let mut matches = self.index.images()?.into_keys().filter(|id| id.starts_with(&prefix));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(ImageError::InvalidReference {
                reference: name_or_id.to_owned(),
                reason: "several images' ids begin so".into(),
            }),
            (found, _) => Ok(found),
        }
    }

    pub(crate) fn view_by_id(&self, id: &str) -> Result<Option<Image>> {
        let Some(record) = self.index.image(id)? else { return Ok(None) };
        self.view(id, &record, &self.index.references()?).map(Some)
    }

    fn view(&self, id: &str, record: &index::ImageRecord, references: &[(String, String)]) -> Result<Image> {
        let path = self.files.image(id)?.join("config");
        let config = std::fs::read(&path).during(|| format!("reading {}", path.display()))?;
        let mut size = record.meta.length;
        for diff_id in record.layers.iter().collect::<BTreeSet<_>>() {
            match self.index.layer(diff_id)? {
                Some(_) if record.is_disk() => size += self.files.allocated(diff_id)?,
                Some(layer) => size += layer.data.length + layer.tree.length,
                None => {}
            }
        }
        let names =
            references.iter().filter(|(_, named)| named == id).map(|(reference, _)| reference.clone());
        let (repo_digests, repo_tags): (Vec<_>, Vec<_>) = names.partition(|name| name.contains('@'));
        let pinned = self.config.is_pinned(&repo_tags) || self.config.is_pinned(&repo_digests);
        let is_disk = record.is_disk();
        let config = parse_config(&config)?;
        let config = if is_disk { disk::with_init(config) } else { config };
        Ok(Image { id: id.to_owned(), repo_tags, repo_digests, size, is_disk, pinned, config })
    }
}
