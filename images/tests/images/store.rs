//! The store: names, sizes, removal, and what a crash leaves.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use husk_images::{Image, ImageError, ImageStore, Silent};

use crate::server::Server;
use crate::support::layout::{Layout, digest, one_file, simple};
use crate::support::{assert_counts, assert_empty, config, run, store, stored};

/// Two images with one layer in common, and one with a name of its own for the first.
async fn filled(dir: &Path) -> (ImageStore, Vec<Image>) {
    let mut layout = Layout::new(&dir.join("layout"));
    layout.add("example.org/one:1", &[("base", b"shared"), ("one", b"1")]);
    layout.add("example.org/two:1", &[("base", b"shared"), ("two", &[2; 20_000])]);
    layout.add("example.org/one:again", &[("base", b"shared"), ("one", b"1")]);
    let store = store(dir);
    let mut images = Vec::new();
    for tag in ["example.org/one:1", "example.org/two:1", "example.org/one:again"] {
        images.push(store.import_layout(&layout.dir, Some(tag)).await.unwrap());
    }
    (store, images)
}

fn hex(name: &str, content: &[u8]) -> String {
    digest(&one_file(name, content)).replace("sha256:", "")
}

/// What `find` sees of the store's content: allocated bytes and inodes.
fn on_disk(dir: &Path) -> (u64, u64) {
    let folders = ["layers", "images", "tmp"].map(|folder| dir.join("store").join(folder));
    let listed = run(Command::new("find").args(folders).args(["-mindepth", "1", "-printf", "%b\\n"]));
    let blocks: Vec<u64> = listed.lines().map(|line| line.parse().unwrap()).collect();
    (blocks.iter().sum::<u64>() * 512, blocks.len() as u64)
}

#[tokio::test]
async fn images_are_found_by_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = filled(dir.path()).await;
    assert_eq!(images[0].id, images[2].id);
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 2);
    let one = listed.iter().find(|image| image.id == images[0].id).unwrap();
    assert_eq!(one.repo_tags, ["example.org/one:1", "example.org/one:again"]);
    assert_eq!(one.repo_digests.len(), 1);
    let hex = &one.id["sha256:".len()..];
    for name in [&one.id, &hex[..6], &hex[..20], hex, "example.org/one:again", &one.repo_digests[0]] {
        assert_eq!(store.status(name).unwrap().unwrap().id, one.id, "{name}");
    }
    for absent in ["example.org/one", "one:1", &"0".repeat(64), &format!("sha256:{}", "0".repeat(64))] {
        assert!(store.status(absent).unwrap().is_none(), "{absent}");
    }
    for bad in ["", "a b", "sha256:xyz!", "Example.org/ONE"] {
        assert!(matches!(store.status(bad), Err(ImageError::InvalidReference { .. })), "{bad:?}");
    }
    assert!(matches!(store.disk(&format!("sha256:{}", "0".repeat(64))), Err(ImageError::NotFound(_))));
}

#[tokio::test]
async fn sizes_are_those_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = filled(dir.path()).await;
    let usage = store.usage().unwrap();
    assert_eq!((usage.bytes, usage.inodes), on_disk(dir.path()));
    // Two files a layer and three an image, with their directories.
    assert_eq!(usage.inodes, 3 * 3 + 2 * 4);
    let root = dir.path().join("store");
    let length = |path: &str| fs::metadata(root.join(path)).unwrap().len();
    for (image, name, content) in [(&images[0], "one", &b"1"[..]), (&images[1], "two", &[2; 20_000])] {
        let mut size = length(&format!("images/{}/meta", &image.id[7..]));
        for layer in [hex("base", b"shared"), hex(name, content)] {
            size += length(&format!("layers/{layer}/data")) + length(&format!("layers/{layer}/tree"));
        }
        assert_eq!(image.size, size);
        let disk: u64 = store.disk(&image.id).unwrap().extents.iter().map(|extent| extent.length).sum();
        assert!(disk < size);
    }
}

#[tokio::test]
async fn removing_frees_exactly_what_nobody_else_uses() {
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = filled(dir.path()).await;
    let disk = store.disk(&images[0].id).unwrap();
    let before = fs::read(&disk.extents[2].file).unwrap();
    let mut open = File::open(&disk.extents[2].file).unwrap();
    store.remove("example.org/one:again").unwrap();
    let mut left = vec![hex("base", b"shared"), hex("two", &[2; 20_000])];
    left.sort();
    assert_eq!(stored(dir.path()), [left, vec![images[1].id[7..].to_owned()], vec![]]);
    for name in ["example.org/one:1", "example.org/one:again", &images[0].id, &images[0].repo_digests[0]] {
        assert!(store.status(name).unwrap().is_none(), "{name}");
    }
    // Whoever runs it keeps its disk.
    let mut after = Vec::new();
    open.read_to_end(&mut after).unwrap();
    assert_eq!(after, before);
    assert_eq!((store.usage().unwrap().bytes, store.usage().unwrap().inodes), on_disk(dir.path()));
    // Removing is idempotent, as the runtime interface wants it.
    store.remove(&images[0].id).unwrap();
    store.remove("example.org/one:1").unwrap();
    assert!(store.remove("not a reference").is_err());
    store.remove(&images[1].id).unwrap();
    assert_empty(dir.path());
    assert_eq!(store.usage().unwrap(), husk_images::Usage::default());
    // Names do not come back with the image.
    let layout = dir.path().join("layout");
    let again = store.import_layout(&layout, Some("example.org/one:again")).await.unwrap();
    assert_eq!((&again.id, again.repo_tags), (&images[0].id, vec!["example.org/one:again".to_owned()]));
}

#[tokio::test]
async fn a_store_has_one_owner_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = filled(dir.path()).await;
    let root = dir.path().join("store");
    let error = ImageStore::open(&root, config()).err().unwrap();
    assert!(matches!(&error, ImageError::InUse(path) if path.contains("store")), "{error}");
    let (before, files) = (format!("{:?}", store.list().unwrap()), stored(dir.path()));
    drop(store);
    let store = ImageStore::open(&root, config()).unwrap();
    assert_eq!(format!("{:?}", store.list().unwrap()), before);
    assert_eq!(stored(dir.path()), files);
    assert!(store.disk(&images[1].id).is_ok());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&root).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "images are nobody else's business");
}

#[tokio::test]
async fn what_a_crash_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = filled(dir.path()).await;
    let files = stored(dir.path());
    drop(store);
    // As a crash leaves them: unfinished work, and content that was renamed but not recorded.
    let root = dir.path().join("store");
    for unfinished in
        ["tmp/0123", "tmp/4567/deeper", &format!("layers/{}", "a".repeat(64)), "images/odd name"]
    {
        fs::create_dir_all(root.join(unfinished)).unwrap();
        fs::write(root.join(unfinished).join("data"), b"half").unwrap();
    }
    fs::write(root.join("tmp/file"), b"x").unwrap();
    std::os::unix::fs::symlink(dir.path(), root.join("tmp/link")).unwrap();
    let store = ImageStore::open(&root, config()).unwrap();
    assert_eq!(stored(dir.path()), files);
    assert_eq!(store.list().unwrap().len(), 2);
    assert!(dir.path().join("layout/oci-layout").exists(), "the sweep followed a link");
    assert!(store.disk(&images[0].id).is_ok());
}

#[tokio::test]
async fn an_image_with_lost_files_is_forgotten_and_can_be_had_again() {
    type Lose = fn(&Path, &Image);
    let lost: [Lose; 6] = [
        |root, _| fs::remove_dir_all(root.join("layers").join(hex("one", b"1"))).unwrap(),
        |root, _| {
            let data = root.join("layers").join(hex("one", b"1")).join("data");
            File::options().write(true).open(data).unwrap().set_len(1).unwrap();
        },
        |root, _| fs::remove_file(root.join("layers").join(hex("one", b"1")).join("tree")).unwrap(),
        |root, image| fs::remove_file(root.join("images").join(&image.id[7..]).join("config")).unwrap(),
        |root, image| {
            let config = root.join("images").join(&image.id[7..]).join("config");
            fs::write(config, "{}").unwrap();
        },
        |root, image| fs::write(root.join("images").join(&image.id[7..]).join("meta"), b"").unwrap(),
    ];
    for lose in lost {
        let dir = tempfile::tempdir().unwrap();
        let (store, images) = filled(dir.path()).await;
        drop(store);
        let root = dir.path().join("store");
        lose(&root, &images[0]);
        let store = ImageStore::open(&root, config()).unwrap();
        let left: Vec<_> = store.list().unwrap().into_iter().map(|image| image.id).collect();
        assert_eq!(left, [images[1].id.clone()]);
        assert_counts(dir.path(), [2, 1, 0]);
        let again = store.import_layout(&dir.path().join("layout"), Some("example.org/one:1")).await.unwrap();
        assert_eq!((&again.id, again.size), (&images[0].id, images[0].size));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_removals_at_once_leave_whole_images() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("base", b"shared"), ("one", b"1")]);
    layout.add("other", &[("base", b"shared"), ("two", b"2")]);
    let server = Server::honest(&layout.dir);
    let store = store(dir.path());
    let work: Vec<_> = (0..12)
        .map(|n| {
            let (store, name) = (store.clone(), format!("{}/x:{}", server.host(), ["test", "other"][n % 2]));
            tokio::spawn(async move {
                let pulled = store.pull(&name, None, &Silent).await.unwrap();
                if n % 3 == 0 {
                    store.remove(&pulled.id).unwrap();
                }
            })
        })
        .collect();
    for one in work {
        one.await.unwrap();
    }
    for image in store.list().unwrap() {
        for extent in store.disk(&image.id).unwrap().extents {
            assert_eq!(fs::metadata(&extent.file).unwrap().len(), extent.length);
        }
    }
    for image in store.list().unwrap() {
        store.remove(&image.id).unwrap();
    }
    assert_empty(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_abandoned_at_any_moment_leaves_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..6).map(|n| (["a", "b", "c", "d", "e", "f"][n], vec![7; 1000 * n])).collect();
    let files: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    let layout = simple(dir.path(), &files);
    let server = Server::honest(&layout.dir);
    let store = store(dir.path());
    let name = format!("{}/x:test", server.host());
    let begun = Instant::now();
    store.pull(&name, None, &Silent).await.unwrap();
    let whole = begun.elapsed();
    store.remove(&name).unwrap();
    for part in 0..60 {
        let pull = store.pull(&name, None, &Silent);
        let abandoned = tokio::time::timeout(whole * part / 50, pull).await.is_err();
        match store.status(&name).unwrap() {
            Some(image) => {
                let disk = store.disk(&image.id).unwrap_or_else(|e| panic!("after {part}/50 of a pull: {e}"));
                assert!(disk.extents.iter().all(|extent| extent.file.exists()), "after {part}/50 of a pull");
            }
            None => assert!(abandoned),
        }
        if part % 4 == 0 {
            // What was being recorded at the end may yet appear, with its name.
            let begun = Instant::now();
            while stored(dir.path()) != [vec![], vec![], vec![] as Vec<String>]
                && begun.elapsed() < Duration::from_secs(5)
            {
                store.remove(&name).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_empty(dir.path());
        }
    }
}
