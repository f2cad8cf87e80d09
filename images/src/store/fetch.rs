//! Layers: those that the store lacks are fetched and converted at once, each into files of its own.

use std::fs::File;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use oci_spec::image::{Descriptor, ImageManifest};

use super::Inner;
use super::files::Scratch;
use super::index::LayerRecord;
use super::pins::Pinned;
use crate::convert::Verdict;
use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::progress::{Progress, Step};
use crate::source::{Content, Source};
use crate::worker::job::{Outcome, Task};
use crate::worker::unexpected;

impl Inner {
    /// Fetches and converts what the store lacks of an image's layers.
    pub(super) async fn fetch_layers(
        self: &Arc<Self>,
        source: &Source,
        manifest: &ImageManifest,
        id: &str,
        pinned: &Arc<Pinned>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut missing: Vec<(&Descriptor, &str)> = Vec::new();
        for (layer, diff_id) in manifest.layers().iter().zip(pinned.diff_ids()) {
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
            fetches.push(Box::pin(self.fetch_layer(source, layer, diff_id, pinned, progress)));
        }
        stream::iter(fetches).buffer_unordered(self.config.parallel_layers.max(1)).try_collect::<()>().await
    }

    async fn fetch_layer(
        self: &Arc<Self>,
        source: &Source,
        layer: &Descriptor,
        diff_id: &str,
        pinned: &Arc<Pinned>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let lock = self.locks.get(&format!("{} {diff_id}", source.name()));
        let _fetching = lock.lock().await;
        if self.index.layer(diff_id)?.is_some() {
            return Ok(());
        }
        let blob = layer.digest().to_string();
        let mut place = 0;
        let mut wrong = None;
        let (scratch, verdict) = loop {
            let scratch = self.files.scratch()?;
            let mut content = source.blob(&blob, layer.size(), place)?;
            match self.convert(&mut content, layer, &scratch, progress).await {
                Ok(verdict) => break (scratch, verdict),
                // That no other place can be asked says less than what is wrong with the last one's answer.
                Err(error) => match wrong.take() {
                    Some(wrong) if matches!(error, ImageError::Unavailable { .. }) => return Err(wrong),
                    _ => (place, wrong) = another_place(&content, &blob, error)?,
                },
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
        pinned.hold_while(move || store.publish_layer(scratch, &diff_id, &record)).await
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

    pub(super) fn publish_layer(&self, scratch: Scratch, diff_id: &str, record: &LayerRecord) -> Result<()> {
        scratch.sync()?;
        let _unchanged = self.pins.lock();
        if self.index.layer(diff_id)?.is_none() {
            scratch.publish(&self.files, &self.files.layer(diff_id)?)?;
            self.index.put_layer(diff_id, record)?;
        }
        Ok(())
    }
}

/// Where to fetch `blob` again after `error`, and that error. What does not have its digest says nothing of the
/// image, only of the mirror that it came from.
fn another_place(
    content: &Content<'_>,
    blob: &str,
    error: ImageError,
) -> Result<(usize, Option<ImageError>)> {
    let of_content =
        matches!(error, ImageError::Corrupt(_) | ImageError::Unsupported(_) | ImageError::TooLarge(_));
    match content.next_place() {
        Some(place) if of_content && !content.matches(blob) => {
            tracing::warn!("a mirror's content is of no use: {error}");
            Ok((place, Some(error)))
        }
        _ => Err(error),
    }
}
