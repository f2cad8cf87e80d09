//! Disk images as the real `qemu-img` writes them, from files, artifacts and containerDisks.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use husk_images::convert::Limits;
use husk_images::{Image, ImageError, ImageStore, RegistryConfig};
use serde_json::{Value, json};

use crate::support::layout::{Compression, Layout, digest_of, one_file, simple};
use crate::support::{assert_counts, assert_empty, config, run, store};

/// 9 MiB and a sector: text that compresses, noise that does not, and holes.
fn raw_disk(dir: &Path) -> PathBuf {
    let path = dir.join("disk.raw");
    let file = File::create_new(&path).unwrap();
    let text: Vec<u8> = (0..200_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect();
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    file.write_all_at(&text, 0).unwrap();
    file.write_all_at(&noise, (4 << 20) + 12_345).unwrap();
    file.write_all_at(b"the end", (9 << 20) + 505).unwrap();
    path
}

fn qemu_img(args: &[&str]) {
    run(Command::new("qemu-img").args(args));
}

/// `raw` as qcow2 with those options of qemu-img.
fn qcow2(raw: &Path, name: &str, options: &[&str]) -> PathBuf {
    let path = raw.with_file_name(name);
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    // For a disk's key qemu-img measures how fast it is, and gives up where the kernel counts its time too coarsely.
    const COARSE: &str = "Unable to get accurate CPU usage";
    let mut command = Command::new("qemu-img");
    command.args(convert).args(options).arg(raw).arg(&path);
    for _ in 0..10 {
        let output = command.output().expect("qemu-img, which tests/deps/install installs");
        if output.status.success() {
            return path;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(COARSE), "{command:?}: {errors}");
    }
    panic!("{command:?}: {COARSE}, ten times")
}

/// Fails unless `image` is the disk in the file `raw`, byte for byte.
fn assert_disk(store: &ImageStore, image: &Image, raw: &Path) {
    assert!(image.is_disk);
    let disk = store.disk(&image.id).unwrap();
    let [extent] = &disk.extents[..] else { panic!("{disk:?}") };
    let expected = fs::read(raw).unwrap();
    assert_eq!((extent.offset, extent.length), (0, expected.len().next_multiple_of(512) as u64));
    let mut found = fs::read(&extent.file).unwrap();
    assert!(found.split_off(expected.len()).iter().all(|byte| *byte == 0));
    assert!(found == expected, "the content differs");
    assert_eq!(image.size, fs::metadata(&extent.file).unwrap().blocks() * 512);
}

#[tokio::test]
async fn whatever_qemu_img_writes_is_the_same_disk() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let store = store(dir.path());
    let plain = store.import_disk(&raw, None).await.unwrap();
    assert_disk(&store, &plain, &raw);
    for (name, options) in [
        ("v2", &["-o", "compat=0.10"][..]),
        ("v3", &["-o", "compat=1.1"]),
        ("v2 compressed", &["-c", "-o", "compat=0.10"]),
        ("v3 compressed", &["-c"]),
        ("small clusters", &["-c", "-o", "cluster_size=512"]),
        ("large clusters", &["-c", "-o", "cluster_size=2M"]),
        ("preallocated", &["-o", "preallocation=metadata"]),
        ("lazy counts", &["-o", "lazy_refcounts=on"]),
        ("narrow counts", &["-o", "refcount_bits=1"]),
    ] {
        let image = store.import_disk(&qcow2(&raw, name, options), None).await;
        let image = image.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_disk(&store, &image, &raw);
        assert!(image.size < fs::metadata(&raw).unwrap().len() / 2, "{name}: {} bytes", image.size);
        store.remove(&image.id).unwrap();
    }
    assert_counts(dir.path(), [1, 1, 0]);
}

#[tokio::test]
async fn an_image_with_writes_and_snapshots_has_its_present_content() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let image = qcow2(&raw, "live.qcow2", &[]);
    let shown = image.display().to_string();
    qemu_img(&["snapshot", "-c", "one", &shown]);
    run(Command::new("qemu-io")
        .args(["-c", "write -P 5 1M 3M", "-c", "write -z 4M 64k", "-c", "discard 5M 128k"])
        .arg(&image));
    qemu_img(&["snapshot", "-c", "two", &shown]);
    run(Command::new("qemu-io").args(["-c", "write -P 6 0 70000"]).arg(&image));
    qemu_img(&["resize", &shown, "20M"]);
    let now = dir.path().join("now.raw");
    qemu_img(&["convert", "-O", "raw", &shown, &now.display().to_string()]);
    let store = store(dir.path());
    let found = store.import_disk(&image, None).await.unwrap();
    assert_disk(&store, &found, &now);
    qemu_img(&["snapshot", "-a", "one", &shown]);
    let first = store.import_disk(&image, None).await.unwrap();
    let size = store.disk(&first.id).unwrap().extents[0].length;
    let mut expected = fs::read(&raw).unwrap();
    expected.resize(size as usize, 0);
    fs::write(&now, expected).unwrap();
    assert_disk(&store, &first, &now);
}

#[tokio::test]
async fn what_qemu_img_writes_and_is_not_read_is_refused_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let store = store(dir.path());
    let base = qcow2(&raw, "base.qcow2", &[]);
    let overlay = dir.path().join("overlay.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(&base)
        .arg(&overlay));
    let data = format!("data_file={}", dir.path().join("data").display());
    let zstd = qcow2(&raw, "zstd.qcow2", &["-c", "-o", "compression_type=zstd"]);
    for (image, says, mend) in [
        (overlay, "a backing file", &["-O", "qcow2"][..]),
        (zstd, "another method than zlib", &["-O", "qcow2", "-c", "-o", "compression_type=zlib"]),
        (qcow2(&raw, "data.qcow2", &["-o", &data]), "an external file", &["-O", "qcow2"]),
        (
            qcow2(&raw, "extended.qcow2", &["-o", "extended_l2=on"]),
            "extended L2 entries",
            &["-O", "qcow2", "-o", "extended_l2=off"],
        ),
    ] {
        let error = store.import_disk(&image, None).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ImageError::Unsupported(_)) && text.contains(says), "{text}");
        assert!(text.contains(&format!("`qemu-img convert {} IMAGE NEW`", mend.join(" "))), "{text}");
        assert_empty(dir.path());
        let mended = dir.path().join("mended");
        run(Command::new("qemu-img").arg("convert").args(mend).arg(&image).arg(&mended));
        let found = store.import_disk(&mended, None).await.unwrap();
        assert_disk(&store, &found, &raw);
        store.remove(&found.id).unwrap();
    }
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let object = format!("secret,id=key,file={}", secret.display());
    let locked = qcow2(
        &raw,
        "locked.qcow2",
        &["--object", &object, "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"],
    );
    let error = store.import_disk(&locked, None).await.unwrap_err().to_string();
    assert!(error.contains("is encrypted") && error.contains("--object secret"), "{error}");
    for format in ["vmdk", "vdi", "vhdx"] {
        let path = dir.path().join(format!("disk.{format}"));
        run(Command::new("qemu-img").args(["convert", "-O", format]).arg(&raw).arg(&path));
        let error = store.import_disk(&path, None).await.unwrap_err().to_string();
        assert!(error.to_lowercase().contains(&format!("a {format} disk")), "{error}");
    }
    assert_empty(dir.path());
}

#[tokio::test]
async fn the_same_image_is_kept_once_and_named_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let image = qcow2(&raw, "disk.qcow2", &["-c"]);
    let store = store(dir.path());
    let first = store.import_disk(&image, Some("example.org/debian")).await.unwrap();
    let again = store.import_disk(&image, Some("example.org/other:1")).await.unwrap();
    assert_eq!((&first.id, first.repo_tags.len()), (&again.id, 1));
    assert_eq!(again.repo_tags, ["example.org/debian:latest", "example.org/other:1"]);
    assert!(again.repo_digests.is_empty());
    assert_counts(dir.path(), [1, 1, 0]);
    assert_eq!(
        first.config.config().as_ref().unwrap().cmd().as_deref(),
        Some(&["/sbin/init".to_owned()][..])
    );
    for bad in ["UPPER", &format!("example.org/x@{}", first.id)] {
        let error = store.import_disk(&image, Some(bad)).await.unwrap_err();
        assert!(matches!(error, ImageError::InvalidReference { .. }), "{error}");
    }
    // The disk outlives a restart of the store.
    drop(store);
    let store = crate::support::store(dir.path());
    assert_disk(&store, &store.status("example.org/debian").unwrap().unwrap(), &raw);
    store.remove("example.org/other:1").unwrap();
    assert_empty(dir.path());
}

#[tokio::test]
async fn what_is_no_file_with_a_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { layer_bytes: 1 << 20, disk_bytes: 8 << 20, ..Limits::default() };
    let store = ImageStore::open(&dir.path().join("store"), RegistryConfig { limits, ..config() }).unwrap();
    let path = |name: &str| dir.path().join(name);
    run(Command::new("mkfifo").arg(path("pipe")));
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("head"), b"QFI\xfb\0\0\0\x03").unwrap();
    let large = File::create_new(path("large")).unwrap();
    large.set_len((1 << 20) + 1).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", &path("huge").display().to_string(), "9M"]);
    for (name, says) in [
        ("absent", "not found"),
        (".", "no regular file"),
        ("pipe", "no regular file"),
        ("empty", "0 bytes"),
        ("head", "no qcow2 image"),
        ("large", "the most is 1048576"),
        ("huge", "a disk of 9437184 bytes, the most is 8388608"),
    ] {
        let error = store.import_disk(&path(name), None).await.unwrap_err().to_string();
        assert!(error.contains(says), "{name}: {error}");
        assert_empty(dir.path());
    }
}

/// A layout whose image `disk` is an artifact of that one layer.
fn artifact(dir: &Path, media_type: &str, content: &[u8]) -> (Layout, Value) {
    let mut layout = Layout::new(&dir.join("layout"));
    let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let layer = layout.blob(media_type, content);
    layout.tag("example.org/disk:1", layout.manifest(&empty, std::slice::from_ref(&layer), "amd64"));
    (layout, layer)
}

#[tokio::test]
async fn artifacts_are_disks_of_the_format_that_they_state() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let packed = qcow2(&raw, "disk.qcow2", &["-c"]);
    let store = store(dir.path());
    for (media_type, content) in
        [("application/x-raw-disk-image", &raw), ("application/x-qemu-disk", &packed)]
    {
        let sub = tempfile::tempdir_in(dir.path()).unwrap();
        let (layout, _) = artifact(sub.path(), media_type, &fs::read(content).unwrap());
        let image = store.import_layout(&layout.dir, None).await.unwrap();
        assert_disk(&store, &image, &raw);
        assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (1, 1));
        // A file with the same content is the same image.
        let file = store.import_disk(content, None).await.unwrap();
        assert_eq!(file.id, image.id);
        assert!(store.verify().unwrap().damaged.is_empty());
        store.remove(&image.id).unwrap();
    }
    // A raw disk stays one, whatever it begins with, and what is no qcow2 is none.
    let sub = tempfile::tempdir_in(dir.path()).unwrap();
    let (layout, _) = artifact(sub.path(), "application/x-raw-disk-image", &fs::read(&packed).unwrap());
    let image = store.import_layout(&layout.dir, None).await.unwrap();
    assert_disk(&store, &image, &packed);
    store.remove(&image.id).unwrap();
    let sub = tempfile::tempdir_in(dir.path()).unwrap();
    let (layout, layer) = artifact(sub.path(), "application/x-qemu-disk", &[1; 4096]);
    let error = store.import_layout(&layout.dir, None).await.unwrap_err().to_string();
    assert!(error.contains(&digest_of(&layer)) && error.contains("no qcow2 image"), "{error}");
    // The blob is not what its digest says.
    fs::write(layout.blob_path(&digest_of(&layer)), [2; 4096]).unwrap();
    let error = store.import_layout(&layout.dir, None).await.unwrap_err();
    assert!(matches!(error, ImageError::Corrupt(_)) && error.to_string().contains("digest"), "{error}");
    assert_empty(dir.path());
}

#[tokio::test]
async fn a_container_disk_is_the_disk_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path());
    let packed = fs::read(qcow2(&raw, "disk.qcow2", &["-c"])).unwrap();
    let plain = fs::read(&raw).unwrap();
    let store = store(dir.path());
    for content in [&packed, &plain] {
        for (compression, config) in
            [(Compression::None, json!({})), (Compression::Gzip, json!({"Cmd": ["/bin/other"]}))]
        {
            let sub = tempfile::tempdir_in(dir.path()).unwrap();
            let mut layout = Layout::new(&sub.path().join("layout"));
            let tar = one_file("disk/debian.qcow2", content);
            layout.tag("example.org/vm:1", layout.image(&[(&tar, compression)], "amd64", config.clone()));
            let image = store.import_layout(&layout.dir, None).await.unwrap();
            assert_disk(&store, &image, &raw);
            assert!(store.verify().unwrap().damaged.is_empty());
            // The layer is of no more use.
            assert_counts(dir.path(), [1, 1, 0]);
            let command = image.config.config().as_ref().unwrap().cmd().clone().unwrap();
            assert_eq!(command, [config["Cmd"][0].as_str().unwrap_or("/sbin/init")]);
            assert_eq!(store.import_layout(&layout.dir, None).await.unwrap().id, image.id);
            store.remove(&image.id).unwrap();
            assert_empty(dir.path());
        }
    }
    // A damaged one is refused, one with other files is an image of files.
    let layout = simple(dir.path(), &[("disk/x.qcow2", b"QFI\xfb\0\0\0\x07")]);
    let error = store.import_layout(&layout.dir, None).await.unwrap_err().to_string();
    assert!(error.contains("no qcow2 image"), "{error}");
    assert_empty(dir.path());
    let files: [(&str, &[u8]); 2] = [("disk/x.qcow2", &packed), ("etc/hosts", b"")];
    let sub = tempfile::tempdir_in(dir.path()).unwrap();
    let image = store.import_layout(&simple(sub.path(), &files).dir, None).await.unwrap();
    assert!(!image.is_disk);
}
