//! Layers: those that the store lacks are fetched and converted at once, each into files of its own.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use husk_failpoint::reach;
use oci_spec::image::{Descriptor, ImageManifest};
use tracing::Instrument;

use super::Inner;
use super::files::Scratch;
use super::index::LayerRecord;
use super::pins::Pinned;
use crate::error::{ImageError, Result};
use crate::progress::{Progress, Step, step_span};
use crate::source::{Content, Source};

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
            let span = step_span("layer", Some(layer.digest().as_ref()));
            let fetch = self.fetch_layer(source, layer, diff_id, pinned, progress);
            fetches.push(Box::pin(fetch.instrument(span)));
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
        let (scratch, unpacked) = loop {
            let scratch = self.files.scratch()?;
            let mut content = source.blob(&blob, layer.size(), place)?;
            match self.convert(&mut content, layer, &scratch, progress).await {
                Ok(unpacked) => break (scratch, unpacked),
                // That no other place can be asked says less than what is wrong with the last one's answer.
                Err(error) => match wrong.take() {
                    Some(wrong) if matches!(error, ImageError::Unavailable { .. }) => return Err(wrong),
                    _ => (place, wrong) = another_place(&content, &blob, error)?,
                },
            }
        };
        if unpacked != diff_id {
            return Err(ImageError::Corrupt(format!(
                "the layer {blob} unpacks to {}, the image's configuration says {diff_id}",
                unpacked
            )));
        }
        let (store, diff_id) = (Arc::clone(self), diff_id.to_owned());
        pinned.hold_while(move || store.publish_layer(scratch, &diff_id, &blob)).await
    }

    pub(super) fn publish_layer(&self, scratch: Scratch, diff_id: &str, blob: &str) -> Result<()> {
        let (data, tree) = (scratch.seal("data")?, scratch.seal("tree")?);
        let record = LayerRecord { blob: blob.to_owned(), data, tree };
        scratch.sync()?;
        let _unchanged = self.pins.lock();
        if self.index.layer(diff_id)?.is_none() {
            reach(format_args!("converted a layer"));
            scratch.publish(&self.files, &self.files.layer(diff_id)?)?;
            reach(format_args!("published a layer"));
            self.index.put_layer(diff_id, &record)?;
            reach(format_args!("recorded a layer"));
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
