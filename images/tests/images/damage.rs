//! Damaged files are found, named and fetched again; pinned and used images stay.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use husk_images::{ImageStore, RegistryConfig, Silent};

use crate::server::Server;
use crate::support::layout::{Layout, digest, one_file, simple};
use crate::support::{Recorder, assert_counts, config, extract, store};

/// Changes one byte in the middle of a file, and nothing that its metadata shows.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

#[tokio::test]
async fn every_damaged_file_is_named_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![9; 50_000];
    let mut layout = simple(dir.path(), &[("base", b"shared"), ("one", &content)]);
    layout.add("other", &[("base", b"shared"), ("two", b"2")]);
    let server = Server::honest(&layout.dir);
    let store = store(dir.path());
    let name = |tag: &str| format!("{}/x:{tag}", server.host());
    let one = store.pull(&name("test"), None, &Silent).await.unwrap();
    store.pull(&name("other"), None, &Silent).await.unwrap();
    let root = dir.path().join("store");
    let whole = store.verify().unwrap();
    assert!(whole.damaged.is_empty() && whole.images.is_empty(), "{whole:?}");
    assert_eq!(whole.checked.inodes, 3 * 2 + 2 * 3);
    let layer = |file: &str| format!("layers/{}/{file}", &digest(&one_file("one", &content))[7..]);
    let image = |file: &str| format!("images/{}/{file}", &one.id[7..]);
    for (file, fetched) in [
        (layer("data"), 1),
        (layer("tree"), 1),
        (image("meta"), 0),
        (image("config"), 0),
        (image("manifest"), 0),
    ] {
        if file.ends_with("manifest") {
            fs::write(root.join(&file), "{}").unwrap();
        } else {
            flip(&root.join(&file));
        }
        let found = store.verify().unwrap();
        let named: Vec<_> = found.damaged.iter().map(|damage| damage.file.clone()).collect();
        assert_eq!(named, [root.join(&file)], "{file}");
        assert_eq!(found.images, [name("test")], "{file}");
        assert!(store.status(&one.id).unwrap().is_none() && store.list().unwrap().len() == 1, "{file}");
        let before = server.count("/blobs/");
        let steps = Recorder::default();
        store.pull(&name("test"), None, &steps).await.unwrap();
        // The configuration, and what was damaged.
        let steps = steps.steps();
        let layers: BTreeSet<_> =
            steps.iter().filter(|step| step.starts_with("layer ")).map(|step| &step[..77]).collect();
        assert!(layers.len() == fetched && server.count("/blobs/") > before, "{file}: {steps:?}");
        assert!(store.verify().unwrap().damaged.is_empty(), "{file}");
        let out = tempfile::tempdir().unwrap();
        assert_eq!(fs::read(extract(&store, &one.id, out.path()).join("one")).unwrap(), content);
    }
    // What all images share takes all of them with it.
    flip(&root.join(format!("layers/{}/data", &digest(&one_file("base", b"shared"))[7..])));
    assert_eq!(store.verify().unwrap().images.len(), 2);
    assert!(store.list().unwrap().is_empty());
}

#[tokio::test]
async fn of_what_nobody_uses_pinned_images_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let tags = ["pin.example/pause:3", "team.example/a:1", "team.example/b:1", "free.example/c:1"];
    for tag in tags {
        layout.add(tag, &[("base", b"shared"), ("own", tag.as_bytes())]);
    }
    layout.add("nameless", &[("nameless", b"x")]);
    let pinned = vec!["pin.example/pause:3".to_owned(), "team.example/a*".to_owned()];
    let config = RegistryConfig { pinned, ..config() };
    let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
    let mut ids = Vec::new();
    for tag in tags.iter().chain(&["nameless"]) {
        ids.push(store.import_layout(&layout.dir, Some(tag)).await.unwrap().id);
    }
    let pinned: Vec<_> = ids.iter().map(|id| store.status(id).unwrap().unwrap().pinned).collect();
    assert_eq!(pinned, [true, true, false, false, false]);

    let before = store.usage().unwrap();
    let freed = store.prune(&Default::default(), false).unwrap();
    assert_eq!(freed.images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&ids[4]]);
    assert_eq!(before.bytes - freed.usage.bytes, store.usage().unwrap().bytes);
    assert_eq!(freed.leftovers, husk_images::Usage::default());
    let freed = store.prune(&[ids[2].clone()].into(), true).unwrap();
    assert_eq!(freed.images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&ids[3]]);
    assert_counts(dir.path(), [4, 3, 0]);
    drop(store);

    let left = dir.path().join("store/tmp/unfinished");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("data"), vec![1; 20_000]).unwrap();
    let store = ImageStore::open(&dir.path().join("store"), crate::support::config()).unwrap();
    let freed = store.prune(&Default::default(), true).unwrap();
    assert_eq!((freed.images.len(), freed.leftovers.inodes), (3, 2));
    assert!(freed.leftovers.bytes >= 20_000);
    crate::support::assert_empty(dir.path());
}

/// A raw disk of 8 MiB, of which little is written.
fn raw_disk(dir: &Path) -> PathBuf {
    let path = dir.join("disk.raw");
    let file = File::create_new(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    file.write_all_at(b"the start", 0).unwrap();
    path
}

#[tokio::test]
async fn damage_of_a_disk_is_found_in_its_holes_too() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let mut layout = Layout::new(&dir.path().join("layout"));
    layout.add("example.org/vm:1", &[("disk/vm.img", &fs::read(&raw).unwrap())]);
    let store = store(dir.path());
    let name = "example.org/disk:1";
    let plain = store.import_disk(&raw, Some(name)).await.unwrap();
    let contained = store.import_layout(&layout.dir, None).await.unwrap();
    let whole = store.verify().unwrap();
    assert!(whole.damaged.is_empty() && whole.images.is_empty(), "{whole:?}");
    assert_eq!(whole.checked.inodes, 2 * (2 + 3));
    let data = store.disk(&plain.id).unwrap().extents[0].file.clone();
    let image = dir.path().join("store/images").join(&plain.id[7..]);
    let files = ["meta", "config", "manifest"].map(|file| image.join(file));
    for file in [&data, &data.with_file_name("tree")].into_iter().chain(&files) {
        match fs::metadata(file).unwrap().len() {
            0 => fs::write(file, "x").unwrap(),
            _ => flip(file),
        }
        let found = store.verify().unwrap();
        let named: Vec<_> = found.damaged.iter().map(|damage| damage.file.clone()).collect();
        assert_eq!((named, found.images), (vec![file.clone()], vec![name.to_owned()]));
        assert!(store.status(&plain.id).unwrap().is_none());
        assert_eq!(store.import_disk(&raw, Some(name)).await.unwrap().id, plain.id);
        assert!(store.verify().unwrap().damaged.is_empty(), "{}", file.display());
        let mut content = fs::read(&data).unwrap();
        assert_eq!(content.drain(..9).collect::<Vec<_>>(), b"the start");
        assert!(content.iter().all(|byte| *byte == 0));
    }
    flip(&store.disk(&contained.id).unwrap().extents[0].file);
    assert_eq!(store.verify().unwrap().images, ["example.org/vm:1"]);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[tokio::test]
async fn disks_are_pinned_used_and_collected_like_any_image() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let config = RegistryConfig { pinned: vec!["vm.example/kept*".to_owned()], ..config() };
    let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
    let mut ids = Vec::new();
    for (content, name) in
        [("one", Some("vm.example/kept:1")), ("two", Some("vm.example/free:1")), ("three", None)]
    {
        File::options().write(true).open(&raw).unwrap().write_all_at(content.as_bytes(), 1 << 20).unwrap();
        let image = store.import_disk(&raw, name).await.unwrap();
        assert!(image.size > 0 && image.size < 1 << 20, "{} bytes", image.size);
        assert_eq!(image.pinned, content == "one");
        ids.push(image.id);
    }
    let before = store.usage().unwrap();
    let freed = store.prune(&Default::default(), false).unwrap();
    assert_eq!(freed.images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&ids[2]]);
    assert!(freed.usage.bytes >= freed.images[0].size);
    assert_eq!(before.bytes - freed.usage.bytes, store.usage().unwrap().bytes);
    assert!(store.prune(&[ids[1].clone()].into(), true).unwrap().images.is_empty());
    assert_eq!(store.prune(&Default::default(), true).unwrap().images.len(), 1);
    assert_counts(dir.path(), [1, 1, 0]);
}
