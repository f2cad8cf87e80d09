//! What `docker save` writes: a `manifest.json` that tells each image's configuration and uncompressed layers.
//! (Newer ones of Docker are OCI layouts as well, and read as such.)

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_spec::image::Descriptor;
use serde::Deserialize;
use serde_json::json;

use super::place::Place;
use crate::digest;
use crate::error::{ImageError, Result};
use crate::manifest::parse_config;
use crate::reference::Reference;

/// The file that tells of the images.
pub(super) const MANIFEST: &str = "manifest.json";
/// Most images of one archive.
const IMAGES_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Its images, as if they came from a registry.
#[derive(Debug, Default)]
pub(super) struct DockerArchive {
    /// The manifest of each, which no one wrote down, and its names.
    pub(super) images: Vec<(Descriptor, Vec<Reference>)>,
    /// Those manifests by digest.
    pub(super) manifests: BTreeMap<String, Bytes>,
    /// The archive's members by digest.
    pub(super) members: BTreeMap<String, String>,
}

/// Reads what `place` tells of its images.
pub(super) fn read(place: &Place) -> Result<DockerArchive> {
    let corrupt =
        |what: String| ImageError::Corrupt(format!("{}/{MANIFEST}: {}", place.name(), digest::clip(&what)));
    let items: Vec<Item> =
        serde_json::from_slice(&place.read(MANIFEST)?).map_err(|e| corrupt(e.to_string()))?;
    if items.len() > IMAGES_MAX {
        return Err(ImageError::TooLarge(format!("{} has over {IMAGES_MAX} images", place.name())));
    }
    let mut found = DockerArchive::default();
    for item in items {
        let config = place.read(&item.config)?;
        let config_digest = digest::of(&config);
        let layers = item.layers.unwrap_or_default();
        let diff_ids = parse_config(&config)?.rootfs().diff_ids().clone();
        if diff_ids.len() != layers.len() {
            return Err(corrupt(format!(
                "{} layers, its configuration has {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let mut descriptors = Vec::new();
        for (diff_id, layer) in diff_ids.iter().zip(layers) {
            digest::hex(diff_id)?;
            // Layers are not compressed here, so a layer's diff-id is its digest; it is checked as such.
            descriptors.push(json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                "digest": diff_id,
                "size": place.file(&layer)?.length,
            }));
            found.members.insert(diff_id.clone(), layer);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": descriptors,
        });
        let manifest = Bytes::from(manifest.to_string());
        let descriptor = serde_json::from_value(json!({
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "digest": digest::of(&manifest),
            "size": manifest.len(),
        }));
        let names: Result<Vec<_>> =
            item.repo_tags.unwrap_or_default().iter().map(|name| Reference::parse(name)).collect();
        found.images.push((descriptor.map_err(|e| corrupt(e.to_string()))?, names?));
        found.manifests.insert(digest::of(&manifest), manifest);
        found.members.insert(config_digest, item.config);
    }
    Ok(found)
}
