//! What only the store's inside shows: pins, records against files, and names.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::pins::Pinned;
use super::*;
use crate::digest::of;

fn open(dir: &Path) -> ImageStore {
    ImageStore::open(dir, RegistryConfig::default()).unwrap()
}

/// Publishes a layer as a pull does; its diff-id.
fn add_layer(store: &ImageStore, name: &str) -> String {
    let diff_id = of(name.as_bytes());
    let scratch = store.inner.files.scratch().unwrap();
    scratch.write("data", &[1; 4096]).unwrap();
    scratch.write("tree", name.as_bytes()).unwrap();
    store.inner.publish_layer(scratch, &diff_id, &of(b"blob")).unwrap();
    diff_id
}

/// Publishes an image of those layers, called `reference`; its id.
fn add_image(store: &ImageStore, reference: &str, layers: &[&str]) -> String {
    let config = format!(r#"{{"author":"{reference}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
    let id = of(config.as_bytes());
    let scratch = store.inner.files.scratch().unwrap();
    scratch.write("config", config.as_bytes()).unwrap();
    scratch.write("meta", &[0; 4096]).unwrap();
    scratch.write("manifest", b"{}").unwrap();
    let layers = layers.iter().map(|layer| (*layer).to_owned()).collect();
    store.inner.publish_image(scratch, &id, layers, &[reference.to_owned()]).unwrap();
    id
}

fn entries(dir: &Path, folder: &str) -> usize {
    fs::read_dir(dir.join(folder)).unwrap().count()
}

#[test]
fn pinned_layers_outlive_whatever_else_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layers = [add_layer(&store, "one"), add_layer(&store, "two")];
    let (first, second) = (Pinned::new(&store.inner, &layers), Pinned::new(&store.inner, &layers[..1]));
    let id = add_image(&store, "example.org/x:1", &[&layers[1]]);
    store.remove(&id).unwrap();
    assert_eq!(entries(dir.path(), "layers"), 2);
    drop(first);
    assert_eq!(store.inner.index.layers().unwrap().into_keys().collect::<Vec<_>>(), layers[..1]);
    assert_eq!(entries(dir.path(), "layers"), 1);
    drop(second);
    assert_eq!((entries(dir.path(), "layers"), entries(dir.path(), "tmp")), (0, 0));
    assert!(store.inner.pins.lock().is_empty());
}

#[tokio::test]
async fn pins_last_as_long_as_work_that_began() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layer = add_layer(&store, "one");
    let pinned = Pinned::new(&store.inner, std::slice::from_ref(&layer));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (worker, named) = (store.clone(), layer.clone());
    let mut work = Box::pin(pinned.hold_while(move || {
        wait.recv().unwrap();
        add_image(&worker, "example.org/x:1", &[&named]);
        Ok(())
    }));
    assert!(futures_util::poll!(&mut work).is_pending());
    drop(work);
    drop(pinned);
    assert!(store.inner.index.layer(&layer).unwrap().is_some(), "removed under the work");
    go.send(()).unwrap();
    while !store.inner.pins.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(store.disk(&store.list().unwrap()[0].id).is_ok());
}

#[test]
fn records_without_files_and_files_without_records_go_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (kept, lost) = (add_layer(&store, "kept"), add_layer(&store, "lost"));
    let whole = add_image(&store, "example.org/whole:1", &[&kept, &kept]);
    let broken = add_image(&store, "example.org/broken:1", &[&kept, &lost]);
    let (unfinished, old) = (add_layer(&store, "of no image"), add_layer(&store, "of no image for long"));
    let made = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    File::open(store.inner.files.layer(&old).unwrap()).unwrap().set_modified(made).unwrap();
    fs::remove_dir_all(store.inner.files.layer(&lost).unwrap()).unwrap();
    // Renamed to its place, but the crash came before the record.
    fs::create_dir(dir.path().join("images").join("e".repeat(64))).unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.list().unwrap().iter().map(|image| &image.id).collect::<Vec<_>>(), [&whole]);
    assert!(store.status(&broken).unwrap().is_none());
    assert!(store.status("example.org/broken:1").unwrap().is_none());
    assert!(store.inner.index.layer(&old).unwrap().is_none());
    assert_eq!((entries(dir.path(), "layers"), entries(dir.path(), "images")), (2, 1));
    // A layer that comes twice counts once for the size, but twice in the disk.
    assert_eq!(store.list().unwrap()[0].size, 4096 + 4096 + 4);
    assert_eq!(store.disk(&whole).unwrap().extents.len(), 3);

    // What a pull that was cut short left waits for the next, whatever goes meanwhile; a collection takes it.
    store.remove(&broken).unwrap();
    assert!(store.inner.index.layer(&unfinished).unwrap().is_some());
    let pulling = Pinned::new(&store.inner, std::slice::from_ref(&unfinished));
    drop(pulling);
    assert!(store.inner.index.layer(&unfinished).unwrap().is_none());
    let unfinished = add_layer(&store, "of another");
    drop(store);
    let store = open(dir.path());
    assert!(store.inner.index.layer(&unfinished).unwrap().is_some());
    store.prune(&Default::default(), false).unwrap();
    assert!(store.inner.index.layer(&unfinished).unwrap().is_none());
}

#[test]
fn a_removal_that_failed_midway_is_finished_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layer = add_layer(&store, "one");
    let id = add_image(&store, "example.org/x:1", &[&layer]);
    // The records are gone, the files not yet.
    store.inner.index.delete(&[id].into(), &[layer].into()).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(entries(dir.path(), "images"), 1);
    drop(store);
    let store = open(dir.path());
    assert_eq!((entries(dir.path(), "layers"), entries(dir.path(), "images")), (0, 0));
    assert_eq!(store.usage().unwrap(), Usage::default());
}

#[test]
fn a_name_moves_with_its_last_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (old, new) = (add_image(&store, "example.org/a:1", &[]), add_image(&store, "example.org/b:1", &[]));
    let record = store.inner.index.image(&new).unwrap().unwrap();
    store.inner.index.put_image(&new, &record, &["example.org/a:1".into()]).unwrap();
    assert_eq!(store.status("example.org/a:1").unwrap().unwrap().id, new);
    assert!(store.status(&old).unwrap().unwrap().repo_tags.is_empty());
    store.remove(&old).unwrap();
    assert_eq!(store.status(&new).unwrap().unwrap().repo_tags, ["example.org/a:1", "example.org/b:1"]);
}

#[test]
fn an_id_may_be_cut_short_where_it_is_unique() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for end in ["0", "1"] {
        let id = format!("sha256:{}{end}", "a".repeat(63));
        let scratch = store.inner.files.scratch().unwrap();
        scratch.write("config", br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).unwrap();
        scratch.write("manifest", b"{}").unwrap();
        scratch.write("meta", &[0; 4096]).unwrap();
        store.inner.publish_image(scratch, &id, Vec::new(), &[]).unwrap();
    }
    let error = store.status("aaaaaa").unwrap_err();
    assert!(error.to_string().contains("several"), "{error}");
    assert!(store.remove("sha256:aaaaaaaa").is_err());
    assert_eq!(store.list().unwrap().len(), 2);
    assert!(store.status("aaaaa").unwrap().is_none(), "five digits are a name");
    assert!(store.status(&format!("sha256:{}1", "a".repeat(63))).unwrap().is_some());
}

#[test]
fn a_lock_is_one_for_its_name_and_goes_with_its_last_holder() {
    let locks = Locks::default();
    let (one, same, other) = (locks.get("a"), locks.get("a"), locks.get("b"));
    assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
    let held = one.try_lock().unwrap();
    assert!(same.try_lock().is_err() && other.try_lock().is_ok());
    drop(held);
    assert!(locks.get("a").try_lock().is_ok());
}
