//! Pulling: what is missing is fetched and converted, then recorded.

use std::fs::File;
use std::sync::Arc;

use husk_failpoint::reach;
use oci_spec::image::ImageManifest;
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::disk::Documents;
use super::files::Scratch;
use super::index::ImageRecord;
use super::pins::Pinned;
use super::{Image, ImageStore, Inner};
use crate::credentials::Credentials;
use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::image::DiskFile;
use crate::manifest::{self, Document, check_config, parse_config};
use crate::progress::{Progress, Step, step_span};
use crate::reference::{Reference, Version};
use crate::registry::Repository;
use crate::source::Source;
use crate::worker::job::{Outcome, Task};
use crate::worker::unexpected;

/// Indexes that may lead to one another.
const INDEX_DEPTH: usize = 3;

impl ImageStore {
    /// Fetches the image that `reference` names at its registry, where it is not complete already, and gives
    /// it that name. `credentials` go to that registry and nowhere else. Dropping the future abandons the
    /// pull and leaves nothing behind.
    ///
    /// # Errors
    /// All of [`ImageError`]'s.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let reference = Reference::parse(reference)?;
        let resolve = async {
            let repository =
                Repository::new(&self.inner.http, &self.inner.config, &reference, credentials).await?;
            let top = repository.manifest(&reference.version).await?;
            Ok::<_, ImageError>((repository, top))
        };
        let (repository, top) = resolve.instrument(step_span("resolve", None)).await?;
        let mut names = vec![reference.at(&digest::of(&top)).to_string()];
        if let Version::Tag(_) = reference.version {
            names.push(reference.to_string());
        }
        let source = Source::Registry(repository);
        self.inner.fetch(&source, &top, &reference.to_string(), names, progress).await
    }
}

impl Inner {
    pub(super) async fn fetch(
        self: &Arc<Self>,
        source: &Source,
        top: &[u8],
        what: &str,
        names: Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let (manifest_bytes, manifest) = resolve(source, top, what).await?;
        if let Some((format, blob)) = manifest::disk(&manifest) {
            return self.fetch_disk(source, &manifest_bytes, format, blob, names, progress).await;
        }
        let id = manifest.config().digest().to_string();
        let config_bytes = source.document(&id).await?;
        let diff_ids = check_config(&parse_config(&config_bytes)?, &manifest, what)?;
        // The same image from the same place is fetched once, whoever asks.
        let lock = self.locks.get(&format!("{} {id}", source.name()));
        let _fetching = lock.lock().await;
        if let Some(image) = self.name_image(&id, &names)? {
            return Ok(image);
        }
        let pinned = Pinned::new(self, &diff_ids);
        self.fetch_layers(source, &manifest, &id, &pinned, progress).await?;
        progress.step(Step::Merging);
        let scratch = self.files.scratch()?;
        scratch.write("manifest", &manifest_bytes)?;
        scratch.write("config", &config_bytes)?;
        let merge = self.merge(&scratch, &id, &diff_ids).instrument(step_span("merge", None));
        if let Some(disk) = merge.await? {
            let config_bytes = config_bytes.to_vec();
            let documents = Documents { id, config_bytes, manifest_bytes, names };
            return self.adopt_contained(&disk, &pinned, documents).await;
        }
        let (store, image) = (Arc::clone(self), id.clone());
        pinned.hold_while(move || store.publish_image(scratch, &image, diff_ids, &names)).await?;
        self.view_by_id(&id)?.ok_or(ImageError::NotFound(id))
    }

    /// Writes the metadata of the image `id` into `scratch`, and gives the disk that is all the image holds, if it
    /// is one.
    async fn merge(&self, scratch: &Scratch, id: &str, diff_ids: &[String]) -> Result<Option<DiskFile>> {
        let meta = scratch.create("meta")?;
        let mut files = vec![meta.try_clone().during(|| "duplicating a descriptor".into())?];
        let mut layers = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let path = self.files.layer(diff_id)?.join("tree");
            files.push(File::open(&path).during(|| format!("opening {}", path.display()))?);
            let record = self.index.layer(diff_id)?;
            layers.push(record.ok_or_else(|| ImageError::NotFound(format!("layer {diff_id}")))?.data.length);
        }
        // The identifier follows from the content, so that the same image is the same disk everywhere.
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&Sha256::digest(id.as_bytes())[..16]);
        let worker = self.workers.start(Task::Image { layers, uuid }, files)?;
        let (meta_len, disk) =
            match worker.finish().await.map_err(|error| error.of(&format!("image {id}")))? {
                Outcome::Image { meta_len, disk } => (meta_len, disk),
                other => return Err(unexpected(&other)),
            };
        let found = meta.metadata().during(|| "looking at an image's metadata".into())?.len();
        if found != meta_len || meta_len == 0 || meta_len % 4096 != 0 {
            return Err(unexpected(&Outcome::Image { meta_len, disk }));
        }
        Ok(disk)
    }

    /// Gives the image `id` the `names`, if it is there.
    pub(super) fn name_image(&self, id: &str, names: &[String]) -> Result<Option<Image>> {
        let _unchanged = self.pins.lock();
        let Some(record) = self.index.image(id)? else { return Ok(None) };
        self.index.put_image(id, &record, names)?;
        self.view_by_id(id)
    }

    pub(super) fn publish_image(
        &self,
        scratch: Scratch,
        id: &str,
        layers: Vec<String>,
        names: &[String],
    ) -> Result<()> {
        let made = ImageRecord { layers, meta: scratch.seal("meta")?, manifest: scratch.seal("manifest")? };
        scratch.sync()?;
        let _unchanged = self.pins.lock();
        // The record must be of the files that are there: the same disk may have come with another manifest.
        let record = match self.index.image(id)? {
            Some(known) => known,
            None => {
                reach(format_args!("made an image"));
                scratch.publish(&self.files, &self.files.image(id)?)?;
                reach(format_args!("published an image"));
                made
            }
        };
        self.index.put_image(id, &record, names)?;
        reach(format_args!("recorded an image"));
        Ok(())
    }
}

/// Follows indexes to this machine's manifest.
async fn resolve(source: &Source, top: &[u8], what: &str) -> Result<(Vec<u8>, ImageManifest)> {
    let mut bytes = top.to_vec();
    for _ in 0..=INDEX_DEPTH {
        match manifest::parse(&bytes).map_err(|error| error.of(what))? {
            Document::Image(manifest) => return Ok((bytes, *manifest)),
            Document::Index(entries) => {
                let digest = manifest::choose(&entries, what)?.digest().to_string();
                digest::hex(&digest)?;
                bytes = source.manifest(&digest).await?.to_vec();
            }
        }
    }
    Err(ImageError::Corrupt(format!("{what}: more than {INDEX_DEPTH} indexes within one another")))
}
