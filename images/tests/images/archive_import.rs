//! Images from tar archives: of OCI layouts and of `docker save`, as skopeo writes both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use husk_images::{ImageError, Silent};
use serde_json::json;

use crate::support::archive::archive;
use crate::support::layout::{Compression, Layout, digest, one_file, simple};
use crate::support::{assert_counts, assert_empty, extract, run, store};

fn skopeo(layout: &Layout, tag: &str, to: &str) {
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy"])
        .arg(format!("oci:{}:{tag}", layout.dir.display()))
        .arg(to));
}

#[tokio::test]
async fn what_docker_save_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"1"), ("b", &[2; 100_000])]);
    let path = dir.path().join("saved.tar");
    skopeo(&layout, "test", &format!("docker-archive:{}:registry.example/app:1", path.display()));
    let store = store(dir.path());
    let images = store.import(&path, None, None, &Silent).await.unwrap();
    let [image] = &images[..] else { panic!("{images:?}") };
    assert_eq!(image.repo_tags, ["registry.example/app:1"]);
    assert!(image.repo_digests.is_empty(), "no registry has that manifest: {:?}", image.repo_digests);
    let found = extract(&store, &image.id, dir.path());
    assert_eq!(fs::read(found.join("a")).unwrap(), b"1");
    assert_eq!(fs::read(found.join("b")).unwrap(), [2; 100_000]);
    let error = store.import(&path, Some("absent"), None, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("registry.example/app:1"), "{error}");
}

#[tokio::test]
async fn an_archive_of_a_layout_is_read_without_unpacking_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("a", b"1")]);
    let tar = one_file("z", &[7; 70_000]);
    let packed = layout.image(&[(&tar, Compression::Gzip)], "amd64", json!({}));
    layout.tag("registry.example/z:1", packed);
    let by_skopeo = dir.path().join("skopeo.tar");
    skopeo(&layout, "test", &format!("oci-archive:{}:one", by_skopeo.display()));
    // All of it, as docker since version 25 saves images.
    let whole = dir.path().join("whole.tar");
    run(Command::new("tar").arg("-C").arg(&layout.dir).arg("-cf").arg(&whole).arg("."));
    let store = store(dir.path());
    let one = store.import(&by_skopeo, Some("one"), Some("local/one"), &Silent).await.unwrap();
    assert_eq!(one[0].repo_tags, ["docker.io/local/one:latest"]);
    assert_eq!(one[0].repo_digests.len(), 1);
    let both = store.import(&whole, None, None, &Silent).await.unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(both[0].id, one[0].id);
    assert_eq!(both[1].repo_tags, ["registry.example/z:1"]);
    assert_eq!(fs::read(extract(&store, &both[1].id, dir.path()).join("z")).unwrap(), [7; 70_000]);
    let error = store.import(&whole, None, Some("x:1"), &Silent).await.unwrap_err();
    assert!(matches!(&error, ImageError::InvalidReference { reason, .. } if reason.contains('2')), "{error}");
}

#[tokio::test]
async fn several_saved_images_share_their_layers() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (one_file("base", b"shared"), one_file("top", b"own"));
    let config = |layers: &[&[u8]]| {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string()
    };
    let (one, two) = (config(&[&base]), config(&[&base, &top]));
    let manifest = json!([
        {"Config": "1.json", "RepoTags": ["one:1", "one:2"], "Layers": ["a/layer.tar"]},
        {"Config": "2.json", "RepoTags": null, "Layers": ["b/layer.tar", "c/layer.tar"]},
    ])
    .to_string();
    let path = saved(
        dir.path(),
        &[
            ("a/layer.tar", b'0', &base[..]),
            ("b/layer.tar", b'2', &b"../a/layer.tar"[..]),
            ("c/layer.tar", b'0', &top[..]),
            ("1.json", b'0', one.as_bytes()),
            ("2.json", b'0', two.as_bytes()),
            ("manifest.json", b'0', manifest.as_bytes()),
        ],
    );
    let store = store(dir.path());
    let images = store.import(&path, None, None, &Silent).await.unwrap();
    assert_eq!(images[0].repo_tags, ["docker.io/library/one:1", "docker.io/library/one:2"]);
    assert!(images[1].repo_tags.is_empty());
    assert_counts(dir.path(), [2, 2, 0]);
    assert_eq!(fs::read(extract(&store, &images[1].id, dir.path()).join("top")).unwrap(), b"own");
}

fn saved(dir: &Path, members: &[(&str, u8, &[u8])]) -> PathBuf {
    let path = dir.join("saved.tar");
    fs::write(&path, archive(members)).unwrap();
    path
}

#[tokio::test]
async fn archives_that_lie_are_refused() {
    let layer = one_file("a", b"b");
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}}).to_string();
    let manifest = |config: &str, layers: &[&str]| {
        json!([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]).to_string()
    };
    let good = manifest("c", &["l"]);
    let padded = " ".repeat(5 << 20);
    type Members<'a> = Vec<(&'a str, u8, &'a [u8])>;
    let (outside, absent, many) =
        (manifest("../../etc/passwd", &[]), manifest("c", &["absent"]), manifest("c", &["l", "l"]));
    let (no_json, bad_name) = ("[", good.replace("x:1", "X Y"));
    let whole: [(&str, u8, &[u8]); 2] = [("c", b'0', config.as_bytes()), ("l", b'0', &layer[..])];
    let cases: [(&str, Members<'_>); 9] = [
        ("not found", [&whole[..], &[("manifest.json", b'0', outside.as_bytes())]].concat()),
        ("not found", [&whole[..], &[("manifest.json", b'0', absent.as_bytes())]].concat()),
        ("2 layers", [&whole[..], &[("manifest.json", b'0', many.as_bytes())]].concat()),
        ("manifest.json", [&whole[..], &[("manifest.json", b'0', no_json.as_bytes())]].concat()),
        ("lower-case", [&whole[..], &[("manifest.json", b'0', bad_name.as_bytes())]].concat()),
        ("over 4194304 bytes", [&whole[..], &[("manifest.json", b'0', padded.as_bytes())]].concat()),
        ("neither oci-layout nor", whole.to_vec()),
        (
            "does not match its digest",
            vec![whole[0], ("l", b'0', &[0; 1024][..]), ("manifest.json", b'0', good.as_bytes())],
        ),
        (
            "not found",
            vec![whole[0], ("l", b'2', &b"/etc/passwd"[..]), ("manifest.json", b'0', good.as_bytes())],
        ),
    ];
    for (says, members) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = saved(dir.path(), &members);
        let error = store(dir.path()).import(&path, None, None, &Silent).await.expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
        assert_empty(dir.path());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path(), &[]);
    run(Command::new("gzip").arg(&path));
    let path = path.with_extension("tar.gz");
    let error = store(dir.path()).import(&path, None, None, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("gunzip"), "{error}");
}
