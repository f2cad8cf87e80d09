//! After a start: files and records are brought together, and what a crash left is removed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::files::Folder;
use super::{Inner, Usage};
use crate::digest;
use crate::error::Result;

/// How long the whole layers of a pull that was cut short wait for the next one.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

impl Inner {
    /// Brings files and records together after a start.
    pub(super) fn mend(&self) -> Result<Usage> {
        let has = |file: PathBuf, length| file.metadata().is_ok_and(|metadata| metadata.len() == length);
        let mut layers = self.index.layers()?;
        let mut lost_layers = BTreeSet::new();
        for (diff_id, record) in &layers {
            let dir = self.files.layer(diff_id)?;
            if !has(dir.join("data"), record.data.length) || !has(dir.join("tree"), record.tree.length) {
                lost_layers.insert(diff_id.clone());
            }
        }
        layers.retain(|diff_id, _| !lost_layers.contains(diff_id));
        let mut images = self.index.images()?;
        let mut lost_images = BTreeSet::new();
        for (id, record) in &images {
            let dir = self.files.image(id)?;
            let config = std::fs::read(dir.join("config"));
            let whole = has(dir.join("meta"), record.meta.length)
                && has(dir.join("manifest"), record.manifest.length)
                && config.is_ok_and(|config| digest::verify(&config, id).is_ok());
            if !whole || !record.layers.iter().all(|diff_id| layers.contains_key(diff_id)) {
                lost_images.insert(id.clone());
            }
        }
        let unused = |layer: &String| !images.values().any(|image| image.layers.contains(layer));
        let (unfinished, old): (BTreeSet<_>, BTreeSet<_>) =
            layers.keys().filter(|layer| unused(layer)).cloned().partition(|layer| self.is_recent(layer));
        images.retain(|id, _| !lost_images.contains(id));
        let used: BTreeSet<&String> =
            images.values().flat_map(|image| &image.layers).chain(&unfinished).collect();
        lost_layers.extend(layers.keys().filter(|diff_id| !used.contains(diff_id)).cloned());
        lost_layers.extend(old);
        if !unfinished.is_empty() {
            tracing::info!(
                layers = unfinished.len(),
                "layers of a pull that was cut short are there for the next"
            );
        }
        self.pins.lock().keep_unfinished(unfinished);
        if !lost_images.is_empty() || !lost_layers.is_empty() {
            tracing::warn!(
                images = lost_images.len(),
                layers = lost_layers.len(),
                "the image store drops what is incomplete or unused"
            );
            self.index.delete(&lost_images, &lost_layers)?;
        }
        self.files.sweep(|folder, digest| match folder {
            Folder::Tmp => false,
            Folder::Layers => layers.contains_key(digest) && !lost_layers.contains(digest),
            Folder::Images => images.contains_key(digest),
        })
    }
    /// Whether a layer is not too old for a pull to go on from it. One from the future is not: clocks are set.
    fn is_recent(&self, diff_id: &str) -> bool {
        let made = self.files.layer(diff_id).ok().and_then(|dir| dir.metadata().ok()?.modified().ok());
        made.is_some_and(|made| made.elapsed().is_ok_and(|age| age < UNFINISHED))
    }
}
