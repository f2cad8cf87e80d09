//! Manifests, indexes and image configurations, of OCI and of Docker's schema 2.

mod artifact;
mod config;
mod platform;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::digest;
use crate::error::{ImageError, Result};

pub(crate) use artifact::disk;
pub(crate) use config::{check_config, parse_config};
pub(crate) use platform::choose;

/// Longest manifest, index or configuration, in bytes (OCI distribution's least upper bound for manifests).
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;
/// Most layers of one image; each is a piece of its disk.
const LAYERS_MAX: usize = 256;

/// The media types that a registry is asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

const LAYER_TYPES: [&str; 10] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What a reference leads to.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image for each of several platforms.
    Index(Vec<Descriptor>),
    Image(Box<ImageManifest>),
}

/// What tells the documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or index. One that could be read as both is refused (CVE-2021-41190).
pub(crate) fn parse(bytes: &[u8]) -> Result<Document> {
    let corrupt = |error: &serde_json::Error| {
        ImageError::Corrupt(format!("a manifest does not parse: {}", digest::clip_error(error)))
    };
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| corrupt(&e))?;
    if shape.schema_version == 1 {
        return Err(ImageError::Unsupported("a manifest of Docker's schema 1; push the image anew".into()));
    }
    if shape.schema_version != 2 {
        return Err(ImageError::Unsupported(format!(
            "a manifest of schema version {}",
            shape.schema_version
        )));
    }
    let media_type = shape.media_type.unwrap_or_default();
    let is_index = shape.manifests.is_some();
    if is_index == shape.layers.is_some() {
        return Err(ImageError::Corrupt("a manifest must have either layers or manifests".into()));
    }
    let stated = match media_type.as_str() {
        "" => is_index,
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => true,
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => false,
        other => return Err(ImageError::Unsupported(format!("the media type {:?}", digest::clip(other)))),
    };
    if stated != is_index {
        return Err(ImageError::Corrupt(format!(
            "a manifest is not what its media type {media_type:?} says"
        )));
    }
    if is_index {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(|e| corrupt(&e))?;
        return Ok(Document::Index(index.manifests().clone()));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(|e| corrupt(&e))?;
    check(&manifest)?;
    Ok(Document::Image(Box::new(manifest)))
}

fn check(manifest: &ImageManifest) -> Result<()> {
    if let Some((_, layer)) = disk(manifest) {
        return digest::hex(layer.digest().as_ref()).map(drop);
    }
    let config = manifest.config().media_type().as_ref();
    if !CONFIG_TYPES.contains(&config) {
        let what = format!("it is an artifact of type {:?}, not a container image", digest::clip(config));
        return Err(ImageError::Unsupported(what));
    }
    if manifest.layers().len() > LAYERS_MAX {
        let what = format!("{} layers, the most is {LAYERS_MAX}", manifest.layers().len());
        return Err(ImageError::TooLarge(what));
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type().as_ref();
        if !LAYER_TYPES.contains(&media_type) {
            let what = format!("a layer of type {:?}", digest::clip(media_type));
            return Err(ImageError::Unsupported(what));
        }
        digest::hex(layer.digest().as_ref())?;
    }
    digest::hex(manifest.config().digest().as_ref()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(config_type: &str, layer_type: &str, digest: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","size":1,"digest":"{digest}"}},
            "layers":[{{"mediaType":"{layer_type}","size":1,"digest":"{digest}","urls":["http://elsewhere/x"]}}]}}"#
        )
    }

    #[test]
    fn docker_and_oci_are_read() {
        for (config, layer) in CONFIG_TYPES.iter().zip([LAYER_TYPES[1], LAYER_TYPES[7]]) {
            assert!(matches!(parse(manifest(config, layer, DIGEST).as_bytes()).unwrap(), Document::Image(_)));
        }
        let list = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests":[{{"mediaType":"x","size":1,"digest":"{DIGEST}",
            "platform":{{"architecture":"amd64","os":"linux","features":["sse4"]}}}}]}}"#
        );
        assert!(matches!(parse(list.as_bytes()).unwrap(), Document::Index(entries) if entries.len() == 1));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let refuse = |text: &str| parse(text.as_bytes()).expect_err(text).to_string();
        assert!(refuse(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("schema 1"));
        assert!(refuse(r#"{"schemaVersion":2}"#).contains("either"));
        assert!(refuse(r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#).contains("either"));
        assert!(
            refuse(
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#
            )
            .contains("media type")
        );
        assert!(
            refuse(&manifest("application/vnd.cncf.helm.config.v1+json", LAYER_TYPES[0], DIGEST))
                .contains("artifact")
        );
        assert!(
            refuse(&manifest(CONFIG_TYPES[0], "application/x-executable", DIGEST))
                .contains("a layer of type")
        );
        assert!(refuse(&manifest(CONFIG_TYPES[0], LAYER_TYPES[0], "sha256:../../etc")).contains("parse"));
        assert!(refuse("").contains("parse"));
        assert!(refuse(&format!("{:?}", "x\n".repeat(1 << 20))).len() < 1000);
        assert!(refuse(&"[".repeat(100_000)).contains("parse"));
        let layer = format!(r#"{{"mediaType":"{}","size":1,"digest":"{DIGEST}"}},"#, LAYER_TYPES[0]);
        let many = manifest(CONFIG_TYPES[0], LAYER_TYPES[0], DIGEST);
        let many = many.replace(r#""layers":["#, &format!(r#""layers":[{}"#, layer.repeat(LAYERS_MAX)));
        assert!(matches!(parse(many.as_bytes()), Err(ImageError::TooLarge(_))));
    }
}
