//! Pulls from Debian's `docker-registry`.

use std::fs;
use std::path::Path;

use husk_images::{Credentials, Image, ImageError, ImageStore, Silent};
use husk_tests::{REGISTRY_PASSWORD, REGISTRY_USER, Registry, RegistryOptions};
use serde_json::json;

use crate::support::layout::{Compression, Layout, digest, digest_of, one_file, simple};
use crate::support::{Recorder, assert_empty, config, extract, store, stored};

async fn pull(store: &ImageStore, reference: &str) -> Result<Image, ImageError> {
    store.pull(reference, None, &Silent).await
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test]
async fn a_tag_and_a_digest_lead_to_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("base", b"lower"), ("top", b"upper")]);
    let tar = one_file("packed", &b"again and again ".repeat(10_000));
    let layers = [(tar.as_slice(), Compression::Gzip), (&one_file("z", b"zstd"), Compression::Zstd)];
    let packed = layout.image(&layers, "amd64", json!({"Cmd": ["/sh"], "Env": ["A=b"]}));
    layout.tag("packed", packed.clone());
    let registry = Registry::start(dir.path());
    registry.push(&layout.dir, "packed", "some/repo:1.0");
    let store = store(dir.path());
    let tagged = format!("{}/some/repo:1.0", registry.host());
    let fixed = format!("{}/some/repo@{}", registry.host(), digest_of(&packed));

    let by_digest = pull(&store, &fixed).await.unwrap();
    assert_eq!((by_digest.repo_tags.len(), &by_digest.repo_digests), (0, &vec![fixed.clone()]));
    let by_tag = pull(&store, &tagged).await.unwrap();
    assert_eq!((&by_tag.repo_tags, &by_tag.repo_digests), (&vec![tagged], &vec![fixed]));
    assert_eq!(by_tag.id, by_digest.id);
    let config = by_tag.config.config().as_ref().unwrap();
    assert_eq!(config.cmd().as_deref(), Some(&["/sh".to_owned()][..]));
    assert_eq!(config.env().as_deref(), Some(&["A=b".to_owned()][..]));
    let found = extract(&store, &by_tag.id, dir.path());
    assert_eq!(read(&found.join("packed")), "again and again ".repeat(10_000));
    assert_eq!(read(&found.join("z")), "zstd");
    assert!(!found.join("base").exists());
}

#[tokio::test]
async fn of_an_index_this_machines_image_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let tars = [one_file("arm", b"arm"), one_file("amd", b"amd")];
    let images: Vec<_> = tars
        .iter()
        .zip(["arm64", "amd64"])
        .map(|(tar, machine)| layout.image(&[(tar, Compression::None)], machine, json!({})))
        .collect();
    let both = layout.index(&images);
    layout.tag("both", both.clone());
    let foreign = layout.index(&images[..1]);
    layout.tag("foreign", foreign);
    layout.tag("unmarked", images[0].clone());
    let registry = Registry::start(dir.path());
    for tag in ["both", "foreign", "unmarked"] {
        registry.push(&layout.dir, tag, &format!("multi:{tag}"));
    }
    let store = store(dir.path());
    let name = |tag: &str| format!("{}/multi:{tag}", registry.host());

    for tag in ["foreign", "unmarked"] {
        let error = pull(&store, &name(tag)).await.unwrap_err();
        let ImageError::UnsupportedPlatform { reference, found } = &error else { panic!("{error}") };
        assert_eq!((reference, found.as_str()), (&name(tag), "linux/arm64"));
    }
    assert_empty(dir.path());
    let image = pull(&store, &name("both")).await.unwrap();
    assert_eq!(image.repo_digests, [format!("{}/multi@{}", registry.host(), digest_of(&both))]);
    assert_eq!(stored(dir.path())[0], [digest(&tars[1]).replace("sha256:", "")]);
    assert_eq!(read(&extract(&store, &image.id, dir.path()).join("amd")), "amd");
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("base", b"shared"), ("one", b"1")]);
    layout.add("other", &[("base", b"shared"), ("two", b"2")]);
    let registry = Registry::start(dir.path());
    registry.push(&layout.dir, "test", "repo:one");
    registry.push(&layout.dir, "test", "repo:again");
    registry.push(&layout.dir, "other", "repo:two");
    let store = store(dir.path());
    let name = |tag: &str| format!("{}/repo:{tag}", registry.host());
    let first = pull(&store, &name("one")).await.unwrap();

    // Without the layers at the registry nothing but manifests and configurations can be had of them.
    for tar in [one_file("base", b"shared"), one_file("one", b"1")] {
        fs::remove_file(registry.blob(&digest(&tar))).unwrap();
    }
    let again = pull(&store, &name("again")).await.unwrap();
    assert_eq!((&again.id, &again.repo_tags), (&first.id, &vec![name("again"), name("one")]));
    let steps = Recorder::default();
    let other = store.pull(&name("two"), None, &steps).await.unwrap();
    let fetched = one_file("two", b"2");
    let (id, layer, size) = (&other.id, digest(&fetched), fetched.len());
    assert_eq!(
        steps.steps(),
        [
            format!("resolved {id}: 1 layers, {size} bytes"),
            format!("layer {layer}: {size} of {size}"),
            "merging".into()
        ]
    );
    assert_eq!(stored(dir.path())[0].len(), 3);
    let found = extract(&store, &other.id, dir.path());
    assert_eq!((read(&found.join("base")), read(&found.join("two"))), ("shared".into(), "2".into()));

    let elsewhere = tempfile::tempdir().unwrap();
    let empty = crate::support::store(elsewhere.path());
    let error = pull(&empty, &name("one")).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "the registry still has them: {error}");
    assert_empty(elsewhere.path());
}

#[tokio::test]
async fn a_tag_that_moves_names_the_new_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("a", b"old")]);
    layout.add("new", &[("a", b"new")]);
    let registry = Registry::start(dir.path());
    let store = store(dir.path());
    let name = format!("{}/repo:latest", registry.host());
    registry.push(&layout.dir, "test", "repo:latest");
    let old = pull(&store, &name).await.unwrap();
    registry.push(&layout.dir, "new", "repo:latest");
    let new = pull(&store, &name).await.unwrap();
    assert_ne!(old.id, new.id);
    assert_eq!(store.status(&name).unwrap().unwrap().id, new.id);
    // The old one stays, known by its digest, until it is removed.
    let left = store.status(&old.id).unwrap().unwrap();
    assert_eq!((left.repo_tags.len(), left.repo_digests), (0, old.repo_digests));
}

#[tokio::test]
async fn a_mirror_stands_for_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let registry = Registry::start(dir.path());
    registry.push(&layout.dir, "test", "library/busybox:latest");
    registry.push(&layout.dir, "test", "deep/er/app:v1");
    let mut config = config();
    for name in ["docker.io", "*"] {
        config.mirrors.insert(name.into(), vec![format!("http://{}", registry.host())]);
    }
    let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
    let image = pull(&store, "busybox").await.unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
    let image = pull(&store, "registry.invalid:5000/deep/er/app:v1").await.unwrap();
    assert_eq!(image.repo_tags.len(), 2);
    assert!(store.status("docker.io/busybox:latest").unwrap().is_some());
}

#[tokio::test]
async fn a_guarded_registry_wants_the_right_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let registry = Registry::with(dir.path(), RegistryOptions { guarded: true, ..Default::default() });
    registry.push(&layout.dir, "test", "private:1");
    let store = store(dir.path());
    let name = format!("{}/private:1", registry.host());
    let wrong = Credentials::password(REGISTRY_USER, "wrong");
    for credentials in [None, Some(wrong)] {
        let error = store.pull(&name, credentials, &Silent).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"));
    }
    assert_empty(dir.path());
    store.pull(&name, Some(Credentials::password(REGISTRY_USER, REGISTRY_PASSWORD)), &Silent).await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let registry = Registry::start(dir.path());
    registry.push(&layout.dir, "test", "repo:1");
    let (store, host) = (store(dir.path()), registry.host());
    let absent = "0".repeat(64);
    for name in [format!("{host}/repo:2"), format!("{host}/other:1"), format!("{host}/repo@sha256:{absent}")]
    {
        let error = pull(&store, &name).await.unwrap_err();
        assert!(matches!(&error, ImageError::NotFound(what) if *what == name), "{error}");
    }
    drop(registry);
    let error = pull(&store, &format!("{host}/repo:1")).await.unwrap_err();
    assert!(matches!(&error, ImageError::Unavailable { registry, .. } if *registry == host), "{error}");
    let error = pull(&store, "no.such.host.invalid/repo:1").await.unwrap_err();
    assert!(matches!(&error, ImageError::Unavailable { .. }), "{error}");
    for bad in ["", "docker.io/Upper", "a:b:c", "../../etc/passwd", "a@sha256:0", "a/b\n:c"] {
        let error = pull(&store, bad).await.unwrap_err();
        assert!(matches!(error, ImageError::InvalidReference { .. }), "{bad:?}: {error}");
    }
    assert_empty(dir.path());
}
