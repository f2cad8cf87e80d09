//! Images from OCI layouts on disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use husk_images::ImageError;
use serde_json::json;

use crate::support::layout::{Compression, Layout, digest_of, one_file, simple};
use crate::support::{assert_counts, assert_empty, extract, run, store};

#[tokio::test]
async fn the_only_image_needs_no_tag_and_gets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let store = store(dir.path());
    let image = store.import_layout(&layout.dir, None).await.unwrap();
    assert!(image.repo_tags.is_empty() && image.repo_digests.is_empty());
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.status(&image.id).unwrap().unwrap().id, image.id);
    assert_eq!(fs::read(extract(&store, &image.id, dir.path()).join("a")).unwrap(), b"b");
}

#[tokio::test]
async fn whole_references_become_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let one = layout.add("registry.example/app:1", &[("a", b"1")]);
    let two = layout.add("quay.io/x/y:z", &[("a", b"2")]);
    let store = store(dir.path());
    let first = store.import_layout(&layout.dir, Some("registry.example/app:1")).await.unwrap();
    assert_eq!(first.repo_tags, ["registry.example/app:1"]);
    assert_eq!(first.repo_digests, [format!("registry.example/app@{}", digest_of(&one))]);
    let second = store.import_layout(&layout.dir, Some("quay.io/x/y:z")).await.unwrap();
    assert_eq!(second.repo_digests, [format!("quay.io/x/y@{}", digest_of(&two))]);
    for name in first.repo_tags.iter().chain(&first.repo_digests) {
        assert_eq!(store.status(name).unwrap().unwrap().id, first.id);
    }
    for (tag, says) in [(None, "quay.io/x/y:z"), (Some("absent"), "registry.example/app:1")] {
        let error = store.import_layout(&layout.dir, tag).await.unwrap_err();
        assert!(matches!(&error, ImageError::NotFound(what) if what.contains(says)), "{error}");
    }
}

#[tokio::test]
async fn an_index_with_every_compression_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let tars: Vec<_> = ["plain", "gzip", "zstd"].iter().map(|name| one_file(name, name.as_bytes())).collect();
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
    let layers: Vec<_> = tars.iter().map(Vec::as_slice).zip(compressions).collect();
    let ours = layout.image(&layers, "amd64", json!({}));
    let theirs = layout.image(&layers[..1], "riscv64", json!({}));
    layout.tag("latest", layout.index(&[theirs, ours]));
    let store = store(dir.path());
    let image = store.import_layout(&layout.dir, Some("latest")).await.unwrap();
    let found = extract(&store, &image.id, dir.path());
    for name in ["plain", "gzip", "zstd"] {
        assert_eq!(fs::read_to_string(found.join(name)).unwrap(), name);
    }
}

#[tokio::test]
async fn what_skopeo_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"1"), ("b", b"2")]);
    let copy = dir.path().join("copy");
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--dest-compress-format=zstd"])
        .arg(format!("oci:{}:test", layout.dir.display()))
        .arg(format!("oci:{}:v1", copy.display())));
    let store = store(dir.path());
    let image = store.import_layout(&copy, Some("v1")).await.unwrap();
    assert_eq!(store.import_layout(&layout.dir, None).await.unwrap().id, image.id);
    assert_eq!(fs::read(extract(&store, &image.id, dir.path()).join("b")).unwrap(), b"2");
}

#[tokio::test]
async fn an_image_without_layers_is_an_empty_root() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    layout.tag("none", layout.image(&[], "amd64", json!({})));
    layout.tag("empty", layout.image(&[(b"", Compression::Gzip)], "amd64", json!({})));
    let store = store(dir.path());
    for tag in ["none", "empty"] {
        let image = store.import_layout(&layout.dir, Some(tag)).await.unwrap();
        let out = dir.path().join(tag);
        fs::create_dir(&out).unwrap();
        assert_eq!(fs::read_dir(extract(&store, &image.id, &out)).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn damaged_layouts_are_refused() {
    type Damage = fn(&Layout, &str);
    let damages: [(&str, Damage); 9] = [
        ("oci-layout", |layout, _| fs::remove_file(layout.dir.join("oci-layout")).unwrap()),
        ("version", |layout, _| {
            fs::write(layout.dir.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        }),
        ("index.json", |layout, _| fs::write(layout.dir.join("index.json"), "{").unwrap()),
        ("over 4194304 bytes", |layout, _| {
            fs::write(layout.dir.join("index.json"), vec![b' '; (4 << 20) + 1]).unwrap();
        }),
        ("not found", |layout, blob| fs::remove_file(layout.blob_path(blob)).unwrap()),
        ("digest", |layout, blob| {
            let mut bytes = fs::read(layout.blob_path(blob)).unwrap();
            bytes[600] ^= 1;
            fs::write(layout.blob_path(blob), bytes).unwrap();
        }),
        ("bytes instead of", |layout, blob| fs::write(layout.blob_path(blob), b"short").unwrap()),
        ("regular file", |layout, blob| {
            fs::remove_file(layout.blob_path(blob)).unwrap();
            run(Command::new("mkfifo").arg(layout.blob_path(blob)));
        }),
        ("regular file", |layout, blob| {
            fs::remove_file(layout.blob_path(blob)).unwrap();
            symlink("/dev/zero", layout.blob_path(blob)).unwrap();
        }),
    ];
    for (says, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let layout = simple(dir.path(), &[("a", b"b")]);
        let layer = crate::support::layout::digest(&one_file("a", b"b"));
        damage(&layout, &layer);
        let store = store(dir.path());
        let error = store.import_layout(&layout.dir, Some("test")).await.unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
        assert_empty(dir.path());
    }
    let dir = tempfile::tempdir().unwrap();
    let error = store(dir.path()).import_layout(&dir.path().join("absent"), None).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
}

#[tokio::test]
async fn one_bad_layer_takes_the_good_ones_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("good", b"good")]);
    layout.add("broken", &[("good", b"good"), ("new", b"new"), ("bad", b"bad")]);
    fs::write(layout.blob_path(&crate::support::layout::digest(&one_file("bad", b"bad"))), [0; 2048])
        .unwrap();
    let store = store(dir.path());
    store.import_layout(&layout.dir, Some("broken")).await.unwrap_err();
    assert_empty(dir.path());
    // Unless another image has them.
    store.import_layout(&layout.dir, Some("test")).await.unwrap();
    store.import_layout(&layout.dir, Some("broken")).await.unwrap_err();
    assert_counts(dir.path(), [1, 1, 0]);
}
