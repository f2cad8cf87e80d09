//! Pulling and importing: what is missing is fetched and converted, then recorded.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use oci_spec::image::{Descriptor, ImageManifest};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::files::Scratch;
use super::index::{ImageRecord, LayerRecord};
use super::pins::Pinned;
use super::{Image, ImageStore, Inner};
use crate::config::Credentials;
use crate::convert::Verdict;
use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::layout::Layout;
use crate::manifest::{self, Document, check_config, parse_config};
use crate::progress::{Progress, Silent, Step};
use crate::reference::{Reference, Version};
use crate::registry::Repository;
use crate::source::{Content, Source};
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
        let repository = Repository::new(&self.inner.http, &self.inner.config, &reference, credentials)?;
        let top = repository.manifest(&reference.version).await?;
        let mut names = vec![reference.at(&digest::of(&top)).to_string()];
        if let Version::Tag(_) = reference.version {
            names.push(reference.to_string());
        }
        let source = Source::Registry(repository);
        self.inner.fetch(&source, &top, &reference.to_string(), names, progress).await
    }

    /// Reads an image from the OCI layout in the directory `layout`: the one annotated as `tag`, or the only
    /// one. It is named if its annotation is a whole reference.
    ///
    /// # Errors
    /// [`ImageError`], as for a pull.
    pub async fn import_layout(&self, layout: &Path, tag: Option<&str>) -> Result<Image> {
        let layout = Layout::open(layout)?;
        let (entry, name) = layout.select(tag)?;
        let top = layout.document(entry.digest().as_ref())?;
        let names = match &name {
            Some(name) => vec![name.at(&digest::of(&top)).to_string(), name.to_string()],
            None => Vec::new(),
        };
        let what = name.map_or_else(|| layout.name(), |name| name.to_string());
        self.inner.fetch(&Source::Layout(layout), &top, &what, names, &Silent).await
    }
}

impl Inner {
    async fn fetch(
        self: &Arc<Self>,
        source: &Source,
        top: &[u8],
        what: &str,
        names: Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let (manifest_bytes, manifest) = resolve(source, top, what).await?;
        let id = manifest.config().digest().to_string();
        let config_bytes = source.document(&id).await?;
        let diff_ids = check_config(&parse_config(&config_bytes)?, &manifest, what)?;
        // The same image from the same place is fetched once, whoever asks.
        let lock = self.locks.get(&format!("{} {id}", source.name()));
        let _fetching = lock.lock().await;
        if let Some(image) = self.name_image(&id, &names)? {
            return Ok(image);
        }
        let _pinned = Pinned::new(self, &diff_ids);
        self.fetch_layers(source, &manifest, &id, &diff_ids, progress).await?;
        progress.step(Step::Merging);
        let scratch = self.files.scratch()?;
        scratch.write("manifest", &manifest_bytes)?;
        scratch.write("config", &config_bytes)?;
        let meta_len = self.merge(&scratch, &id, &diff_ids).await?;
        let record = ImageRecord { layers: diff_ids, meta_len };
        let (store, image) = (Arc::clone(self), id.clone());
        blocking(move || store.publish_image(scratch, &image, &record, &names)).await?;
        self.view_by_id(&id)?.ok_or(ImageError::NotFound(id))
    }

    /// Fetches and converts what the store lacks of an image's layers.
    async fn fetch_layers(
        self: &Arc<Self>,
        source: &Source,
        manifest: &ImageManifest,
        id: &str,
        diff_ids: &[String],
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut missing: Vec<(&Descriptor, &str)> = Vec::new();
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let known = missing.iter().any(|(_, other)| other == diff_id);
            if !known && self.index.layer(diff_id)?.is_none() {
                if layer.size() > self.config.limits.layer_bytes {
                    return Err(ImageError::TooLarge(format!("a layer of {} bytes", layer.size())));
                }
                missing.push((layer, diff_id));
            }
        }
        let bytes = missing.iter().fold(0_u64, |sum, (layer, _)| sum.saturating_add(layer.size()));
        progress.step(Step::Resolved { id, layers: missing.len(), bytes });
        // Boxed one by one: a closure over borrowed items would not be general enough for callers that need
        // the whole future to be Send.
        let mut fetches: Vec<BoxFuture<'_, Result<()>>> = Vec::with_capacity(missing.len());
        for (layer, diff_id) in missing {
            fetches.push(Box::pin(self.fetch_layer(source, layer, diff_id, progress)));
        }
        stream::iter(fetches).buffer_unordered(self.config.parallel_layers.max(1)).try_collect::<()>().await
    }

    async fn fetch_layer(
        self: &Arc<Self>,
        source: &Source,
        layer: &Descriptor,
        diff_id: &str,
        progress: &dyn Progress,
    ) -> Result<()> {
        let lock = self.locks.get(&format!("{} {diff_id}", source.name()));
        let _fetching = lock.lock().await;
        if self.index.layer(diff_id)?.is_some() {
            return Ok(());
        }
        let blob = layer.digest().to_string();
        let mut place = 0;
        let (scratch, verdict) = loop {
            let scratch = self.files.scratch()?;
            let mut content = source.blob(&blob, layer.size(), place)?;
            match self.convert(&mut content, layer, &scratch, progress).await {
                Ok(verdict) => break (scratch, verdict),
                Err(error) => place = another_place(&content, &blob, error)?,
            }
        };
        if verdict.diff_id != diff_id {
            return Err(ImageError::Corrupt(format!(
                "the layer {blob} unpacks to {}, the image's configuration says {diff_id}",
                digest::clip(&verdict.diff_id)
            )));
        }
        let record = LayerRecord { blob, data_len: verdict.data_len, tree_len: verdict.tree_len };
        let (store, diff_id) = (Arc::clone(self), diff_id.to_owned());
        blocking(move || store.publish_layer(scratch, &diff_id, &record)).await
    }

    /// Streams a layer's blob through a worker into `scratch`.
    async fn convert(
        &self,
        content: &mut Content<'_>,
        layer: &Descriptor,
        scratch: &Scratch,
        progress: &dyn Progress,
    ) -> Result<Verdict> {
        let (blob, total) = (layer.digest().to_string(), layer.size());
        let (data, tree) = (scratch.create("data")?, scratch.create("tree")?);
        let handles =
            [&data, &tree].map(|file| file.try_clone().during(|| "duplicating a descriptor".into()));
        let [for_data, for_tree] = handles;
        let mut worker = self.workers.start(Task::Layer, vec![for_data?, for_tree?])?;
        let mut done = 0;
        let mut fed = true;
        while fed && let Some(chunk) = content.chunk().await? {
            fed = worker.write(&chunk).await?;
            done += chunk.len() as u64;
            progress.step(Step::Layer { digest: &blob, done, total });
        }
        let outcome = worker.finish().await;
        // Damage on the way explains whatever the worker says of it.
        if fed && !content.matches(&blob) {
            return Err(ImageError::Corrupt(format!("the content of {blob} does not match its digest")));
        }
        let verdict = match outcome.map_err(|error| error.of(&format!("layer {blob}")))? {
            Outcome::Layer(verdict) => verdict,
            other => return Err(unexpected(&other)),
        };
        let length = |file: &File| file.metadata().during(|| "looking at a layer's file".into());
        let whole = length(&data)?.len() == verdict.data_len && length(&tree)?.len() == verdict.tree_len;
        if !fed || !whole || verdict.data_len % 4096 != 0 {
            return Err(unexpected(&Outcome::Layer(verdict)));
        }
        Ok(verdict)
    }

    /// Writes the metadata of the image `id` into `scratch` and gives its bytes.
    async fn merge(&self, scratch: &Scratch, id: &str, diff_ids: &[String]) -> Result<u64> {
        let meta = scratch.create("meta")?;
        let mut files = vec![meta.try_clone().during(|| "duplicating a descriptor".into())?];
        let mut layers = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let path = self.files.layer(diff_id)?.join("tree");
            files.push(File::open(&path).during(|| format!("opening {}", path.display()))?);
            let record = self.index.layer(diff_id)?;
            layers.push(record.ok_or_else(|| ImageError::NotFound(format!("layer {diff_id}")))?.data_len);
        }
        // The identifier follows from the content, so that the same image is the same disk everywhere.
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&Sha256::digest(id.as_bytes())[..16]);
        let worker = self.workers.start(Task::Image { layers, uuid }, files)?;
        let meta_len = match worker.finish().await.map_err(|error| error.of(&format!("image {id}")))? {
            Outcome::Image { meta_len } => meta_len,
            other => return Err(unexpected(&other)),
        };
        let found = meta.metadata().during(|| "looking at an image's metadata".into())?.len();
        if found != meta_len || meta_len == 0 || meta_len % 4096 != 0 {
            return Err(unexpected(&Outcome::Image { meta_len }));
        }
        Ok(meta_len)
    }

    /// Gives the image `id` the `names`, if it is there.
    fn name_image(&self, id: &str, names: &[String]) -> Result<Option<Image>> {
        let _unchanged = self.pins.lock();
        let Some(record) = self.index.image(id)? else { return Ok(None) };
        self.index.put_image(id, &record, names)?;
        self.view_by_id(id)
    }

    fn publish_layer(&self, scratch: Scratch, diff_id: &str, record: &LayerRecord) -> Result<()> {
        scratch.sync()?;
        let _unchanged = self.pins.lock();
        if self.index.layer(diff_id)?.is_none() {
            scratch.publish(&self.files, &self.files.layer(diff_id)?)?;
            self.index.put_layer(diff_id, record)?;
        }
        Ok(())
    }

    fn publish_image(
        &self,
        scratch: Scratch,
        id: &str,
        record: &ImageRecord,
        names: &[String],
    ) -> Result<()> {
        scratch.sync()?;
        let _unchanged = self.pins.lock();
        if self.index.image(id)?.is_none() {
            scratch.publish(&self.files, &self.files.image(id)?)?;
        }
        self.index.put_image(id, record, names)
    }
}

/// Where to fetch `blob` again after `error`. What does not have its digest says nothing of the image, only of
/// the mirror that it came from.
fn another_place(content: &Content<'_>, blob: &str, error: ImageError) -> Result<usize> {
    let of_content =
        matches!(error, ImageError::Corrupt(_) | ImageError::Unsupported(_) | ImageError::TooLarge(_));
    match content.next_place() {
        Some(place) if of_content && !content.matches(blob) => {
            tracing::warn!("a mirror's content is of no use: {error}");
            Ok(place)
        }
        _ => Err(error),
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

/// Runs `work`, which waits for the disk, where it holds up no one.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(std::io::Error::other(error)).during(|| "the image store's own thread".into()),
    }
}
