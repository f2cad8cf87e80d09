//! Manifests, indexes and configurations made to do harm.

use std::time::{Duration, Instant};

use husk_images::{ImageError, ImageStore};
use serde_json::{Value, json};

use crate::support::layout::{Compression, Layout, one_file, simple};
use crate::support::{assert_empty, store};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Bed {
    dir: tempfile::TempDir,
    layout: Layout,
    store: ImageStore,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (layout, store) = (simple(dir.path(), &[("a", b"b")]), store(dir.path()));
        Self { dir, layout, store }
    }

    /// Imports what the descriptor leads to, which must fail and leave nothing.
    async fn refused(&mut self, descriptor: Value) -> ImageError {
        self.layout.tag("test", descriptor);
        let begun = Instant::now();
        let error = self.store.import_layout(&self.layout.dir, Some("test")).await.expect_err("accepted");
        assert!(begun.elapsed() < Duration::from_secs(5), "{error} took {:?}", begun.elapsed());
        assert!(error.to_string().len() < 3000, "an error of {} bytes", error.to_string().len());
        assert_empty(self.dir.path());
        error
    }

    async fn refused_text(&mut self, media_type: &str, text: &str) -> ImageError {
        let descriptor = self.layout.blob(media_type, text.as_bytes());
        self.refused(descriptor).await
    }
}

#[tokio::test]
async fn documents_over_four_megabytes_are_refused() {
    let mut bed = Bed::new();
    let padded = " ".repeat(4 << 20) + "{}";
    let error = bed.refused_text(MANIFEST, &padded).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
    let config = bed.layout.blob("application/vnd.oci.image.config.v1+json", padded.as_bytes());
    let error = bed.refused(bed.layout.manifest(&config, &[], "amd64")).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn indexes_come_to_an_end() {
    let mut bed = Bed::new();
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
    let mut bed = Bed::new();
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
        let error = bed.refused_text(media_type, text).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{error}");
    }
    let old = r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
    let error = bed.refused_text("application/vnd.docker.distribution.manifest.v1+json", old).await;
    assert!(matches!(error, ImageError::Unsupported(_)), "{error}");
}

#[tokio::test]
async fn digests_are_no_paths() {
    let mut bed = Bed::new();
    std::fs::write(bed.dir.path().join("secret"), "{}").unwrap();
    for digest in ["sha256:../../../secret", "sha256:", "sha512:../../secret", "../../secret", "md5:0", ""] {
        let entry = json!({"mediaType": MANIFEST, "digest": digest, "size": 2});
        let error = bed.refused(bed.layout.index(std::slice::from_ref(&entry))).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{digest}: {error}");
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2}});
        let error = bed.refused_text(MANIFEST, &manifest.to_string()).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{digest}: {error}");
    }
}

#[tokio::test]
async fn configurations_that_do_not_parse_are_refused() {
    let mut bed = Bed::new();
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
