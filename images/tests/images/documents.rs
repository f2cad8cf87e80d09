//! Manifests, indexes and configurations made to do harm.

use husk_images::ImageError;
use serde_json::json;

use crate::bed::Bed;
use crate::support::config;
use crate::support::layout::{Compression, one_file};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

async fn refused_text(bed: &mut Bed, media_type: &str, text: &str) -> ImageError {
    let descriptor = bed.layout.blob(media_type, text.as_bytes());
    bed.refused(descriptor).await
}

#[tokio::test]
async fn documents_over_four_megabytes_are_refused() {
    let mut bed = Bed::new(config());
    let padded = " ".repeat(4 << 20) + "{}";
    let error = refused_text(&mut bed, MANIFEST, &padded).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
    let config = bed.layout.blob("application/vnd.oci.image.config.v1+json", padded.as_bytes());
    let error = bed.refused(bed.layout.manifest(&config, &[], "amd64")).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn indexes_come_to_an_end() {
    let mut bed = Bed::new(config());
    let mut entry = bed.layout.image(&[(&one_file("a", b"b"), Compression::None)], "amd64", json!({}));
    for _ in 0..4 {
        entry = bed.layout.index(&[entry]);
    }
    let error = bed.refused(entry).await;
    assert!(matches!(&error, ImageError::Corrupt(what) if what.contains("indexes")), "{error}");
    let error = bed.refused(bed.layout.index(&[])).await;
    assert!(matches!(error, ImageError::UnsupportedPlatform { .. }), "{error}");
    let digest = format!("sha256:{}", "0".repeat(64));
    let many: Vec<_> = (0..10_000)
        .map(|n| {
            json!({"mediaType": MANIFEST, "digest": digest, "size": 1,
                "platform": {"os": "linux", "architecture": format!("a{n}\n{}", "x".repeat(50))}})
        })
        .collect();
    let error = bed.refused(bed.layout.index(&many)).await;
    assert!(matches!(error, ImageError::UnsupportedPlatform { .. }), "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[tokio::test]
async fn what_means_two_things_means_nothing() {
    let mut bed = Bed::new(config());
    let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    for (media_type, text) in [
        (MANIFEST, both),
        (INDEX, both),
        (MANIFEST, &both.replace("{\"schema", &format!("{{\"mediaType\":\"{INDEX}\",\"schema"))),
        (MANIFEST, "{}"),
        (MANIFEST, "[]"),
        (MANIFEST, ""),
        (MANIFEST, "\0"),
        (MANIFEST, &"[".repeat(1 << 20)),
        (MANIFEST, &"{\"a\":".repeat(1 << 18)),
    ] {
        let error = refused_text(&mut bed, media_type, text).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{error}");
    }
    let old = r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
    let error = refused_text(&mut bed, "application/vnd.docker.distribution.manifest.v1+json", old).await;
    assert!(matches!(error, ImageError::Unsupported(_)), "{error}");
}

#[tokio::test]
async fn digests_are_no_paths() {
    let mut bed = Bed::new(config());
    for digest in
        ["sha256:../../../outside", "sha256:", "sha512:../../../outside", "../../../outside", "md5:0", ""]
    {
        let entry = json!({"mediaType": MANIFEST, "digest": digest, "size": 2});
        let error = bed.refused(bed.layout.index(std::slice::from_ref(&entry))).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{digest}: {error}");
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2}});
        let error = refused_text(&mut bed, MANIFEST, &manifest.to_string()).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{digest}: {error}");
    }
}

#[tokio::test]
async fn configurations_that_do_not_parse_are_refused() {
    let mut bed = Bed::new(config());
    for text in
        ["", "[]", "null", "{}", r#"{"rootfs":{"type":"layers","diff_ids":"x"}}"#, &"[".repeat(1 << 20)]
    {
        let config = bed.layout.blob("application/vnd.oci.image.config.v1+json", text.as_bytes());
        let error = bed.refused(bed.layout.manifest(&config, &[], "amd64")).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{text:.20}: {error}");
    }
    let chart = bed.layout.blob("application/vnd.cncf.helm.config.v1+json", b"{}");
    let error = bed.refused(bed.layout.manifest(&chart, &[], "amd64")).await;
    assert!(matches!(&error, ImageError::Unsupported(what) if what.contains("artifact")), "{error}");
}
