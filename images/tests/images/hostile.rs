//! Images made to do harm: each fails cleanly or is contained in its own disk.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use husk_images::convert::Limits;
use husk_images::{Image, ImageError, RegistryConfig};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::support::archive::{archive, pax};
use crate::support::layout::{Compression, Layout, digest, one_file};
use crate::support::{assert_empty, compose, config, extract, store, stored};

/// Budgets that tests can exceed in no time.
fn small() -> RegistryConfig {
    let limits = Limits { entries: 5000, ratio_floor: 4 << 20, ratio: 20, ..Limits::default() };
    RegistryConfig { limits, ..config() }
}

async fn import(bed: &mut Bed, layers: &[&[u8]]) -> Result<Image, ImageError> {
    bed.import(image(&bed.layout, layers)).await
}

fn image(layout: &Layout, layers: &[&[u8]]) -> Value {
    let layers: Vec<_> = layers.iter().map(|layer| (*layer, Compression::None)).collect();
    layout.image(&layers, "amd64", json!({}))
}

/// Imports an image of those layers, which must fail and leave nothing.
async fn refused(layers: &[&[u8]]) -> ImageError {
    let mut bed = Bed::new(small());
    bed.refused(image(&bed.layout, layers)).await
}

async fn corrupt(layers: &[&[u8]], says: &str) {
    let error = refused(layers).await;
    assert!(matches!(&error, ImageError::Corrupt(what) if what.contains(says)), "{says}: {error}");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test]
async fn names_that_lead_out_are_refused() {
    for name in ["../outside", "a/../../outside", "..", "/../outside", "a/.."] {
        corrupt(&[&archive(&[(name, b'0', b"x")])], "..").await;
        corrupt(&[&archive(&[(name, b'5', b"")])], "..").await;
        corrupt(&[&archive(&[("link", b'1', name.as_bytes())])], "..").await;
        corrupt(&[&archive(&[("h", b'x', &pax("path", name)), ("short", b'0', b"x")])], "..").await;
        corrupt(&[&archive(&[("h", b'L', name.as_bytes()), ("short", b'0', b"x")])], "..").await;
    }
    corrupt(&[&archive(&[("h", b'x', &pax("path", "a\0b")), ("short", b'0', b"x")])], "NUL").await;
    corrupt(&[&archive(&[(&"n".repeat(80), b'0', b""), ("h", b'L', &[b'n'; 256]), ("s", b'0', b"")])], "255")
        .await;
    corrupt(&[&archive(&[("h", b'L', &b"ab/".repeat(1500)), ("s", b'0', b"")])], "4095").await;
}

#[tokio::test]
async fn absolute_names_and_links_stay_inside_the_image() {
    let mut bed = Bed::new(small());
    let outside = bed.dir.path().join("outside");
    let dir = bed.dir.path().to_str().unwrap().to_owned();
    let up = "../".repeat(20) + &dir[1..];
    let lower = archive(&[
        (outside.to_str().unwrap(), b'0', b"absolute"),
        ("absolute", b'2', dir.as_bytes()),
        ("relative", b'2', up.as_bytes()),
        ("in", b'2', b"/proc/self/root"),
    ]);
    let upper = archive(&[
        ("absolute/one", b'0', b"1"),
        ("relative/two", b'0', b"2"),
        ("in/three", b'0', b"3"),
        ("hard", b'1', b"absolute/outside"),
    ]);
    let image = import(&mut bed, &[&lower, &upper]).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    let found = extract(&bed.store, &image.id, out.path());
    let inside = found.join(&dir[1..]);
    assert_eq!(read(&inside.join("outside")), "absolute");
    assert_eq!((read(&inside.join("one")), read(&inside.join("two"))), ("1".into(), "2".into()));
    assert_eq!(read(&found.join("proc/self/root/three")), "3");
    assert_eq!(read(&found.join("hard")), "absolute");
    bed.nothing_escaped();
}

#[tokio::test]
async fn hard_links_lead_to_files_of_the_image_only() {
    corrupt(&[&archive(&[("h", b'1', b"/etc/passwd")])], "no file").await;
    corrupt(&[&archive(&[("e", b'2', b"/etc"), ("h", b'1', b"e/passwd")])], "no file").await;
    corrupt(&[&archive(&[("d/", b'5', b""), ("h", b'1', b"d")])], "no file").await;
    corrupt(&[&archive(&[("h", b'1', b"h")])], "no file").await;
    corrupt(&[&archive(&[("h", b'1', b"/")])], "root").await;
    corrupt(&[&archive(&[("a", b'2', b"b"), ("b", b'2', b"a"), ("a/x", b'0', b"")])], "symbolic links").await;
}

#[tokio::test]
async fn whiteouts_remove_nothing_but_what_they_name() {
    let lower = archive(&[("d/keep", b'0', b"x"), ("link", b'2', b"d")]);
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh...", ".wh.d/x", "d/.wh.x/.wh.y"] {
        corrupt(&[&lower, &archive(&[(name, b'0', b"")])], "whiteout").await;
    }
    for name in ["link/.wh.keep", "link/.wh..wh..opq"] {
        corrupt(&[&lower, &archive(&[(name, b'0', b"")])], "whiteout goes through").await;
    }
    corrupt(&[&lower, &archive(&[("../.wh.outside", b'0', b"")])], "..").await;
    let mut bed = Bed::new(small());
    let odd = archive(&[(".wh..wh.plnk", b'0', b""), ("d/keep/.wh.x", b'0', b""), (".wh.none", b'0', b"")]);
    let image = import(&mut bed, &[&lower, &odd]).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    assert_eq!(read(&extract(&bed.store, &image.id, out.path()).join("d/keep")), "x");
    // The root's own contents may go: the image is empty then, and nothing else is.
    let mut bed = Bed::new(small());
    let image = import(&mut bed, &[&lower, &archive(&[(".wh..wh..opq", b'0', b"")])]).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    assert_eq!(fs::read_dir(extract(&bed.store, &image.id, out.path())).unwrap().count(), 0);
}

#[tokio::test]
async fn of_entries_with_one_name_the_last_counts() {
    let mut bed = Bed::new(small());
    let tar = archive(&[
        ("f", b'0', b"first"),
        ("f", b'0', b"second"),
        ("d/x", b'0', b"x"),
        ("d", b'0', b"file now"),
        ("l", b'2', b"f"),
        ("l", b'0', b"no link now"),
        ("./f", b'0', b"third"),
    ]);
    let image = import(&mut bed, &[&tar]).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    let found = extract(&bed.store, &image.id, out.path());
    let texts = ["f", "d", "l"].map(|name| read(&found.join(name)));
    assert_eq!(texts, ["third", "file now", "no link now"]);
    let device = archive(&[("null", b'3', b""), ("null/x", b'0', b"")]);
    corrupt(&[&archive(&[("f", b'0', b"x"), ("f/x", b'0', b"")])], "directory").await;
    // A whiteout device is dropped, so a directory takes its place.
    assert!(import(&mut Bed::new(small()), &[&device]).await.is_ok());
}

#[tokio::test]
async fn sizes_that_lie_are_refused() {
    let good = archive(&[("f", b'0', &[1; 1000])]);
    // With and without padding behind the contents.
    for tar in [&good, &archive(&[("f", b'0', &[1; 1024])])] {
        for cut in [100, 512, 700, 1535] {
            corrupt(&[&tar[..cut]], "middle").await;
        }
    }
    // A size of 8 GiB less one byte, of which nothing comes.
    let mut huge = good.clone();
    huge[124..136].copy_from_slice(b"77777777777\0");
    corrupt(&[&huge], "checksum").await;
    crate::support::archive::seal(&mut huge);
    corrupt(&[&huge], "middle").await;
    for size in ["9223372036854775807", "18446744073709551615", "99999999999999999999", "-1"] {
        let tar = archive(&[("h", b'x', &pax("size", size)), ("f", b'0', b"x")]);
        let error = refused(&[&tar]).await;
        assert!(matches!(error, ImageError::Corrupt(_) | ImageError::TooLarge(_)), "{size}: {error}");
    }
    for size in [0, 1, u64::MAX] {
        let mut bed = Bed::new(small());
        let tar = one_file("a", b"b");
        let mut layer = bed.layout.layer(&tar, Compression::None);
        layer["size"] = size.into();
        let error = bed.import(with_layers(&bed.layout, &[layer], &[digest(&tar)])).await.unwrap_err();
        assert!(matches!(error, ImageError::Corrupt(_) | ImageError::TooLarge(_)), "{size}: {error}");
        assert_empty(bed.dir.path());
    }
}

/// An image of those layers whose configuration has those diff-ids.
fn with_layers(layout: &Layout, layers: &[Value], diff_ids: &[String]) -> Value {
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    layout.manifest(&config, layers, "amd64")
}

#[tokio::test]
async fn bombs_are_defused() {
    let zeros = archive(&[("zeros", b'0', &vec![0; 64 << 20])]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut bed = Bed::new(small());
        let error =
            bed.import(bed.layout.image(&[(&zeros, compression)], "amd64", json!({}))).await.unwrap_err();
        assert!(matches!(&error, ImageError::TooLarge(what) if what.contains("unpacks")), "{error}");
        assert_empty(bed.dir.path());
    }
    let many: Vec<String> = (0..5001).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), b'0', &b""[..])).collect();
    let error = refused(&[&archive(&many)]).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
    // Few entries, many directories.
    let deep: Vec<String> = (0..100).map(|n| format!("{n}/") + &"d/".repeat(100)).collect();
    let deep: Vec<_> =
        deep.iter().flat_map(|name| [("h", b'L', name.as_bytes()), ("s", b'5', b"")]).collect();
    let error = refused(&[&archive(&deep)]).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
    let error = refused(&[&archive(&[("h", b'L', &vec![b'n'; 2 << 20]), ("s", b'0', b"")])]).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn a_million_entries_are_the_most() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    // As one archive they are half a gigabyte, so they are packed as they come.
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    for n in 0..=1_000_000 {
        let mut entry = archive(&[(&format!("{n}"), b'0', b"")]);
        entry.truncate(512);
        packed.write_all(&entry).unwrap();
    }
    packed.write_all(&[0; 1024]).unwrap();
    let layer = layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &packed.finish().unwrap());
    let image = with_layers(&layout, &[layer], &[digest(b"whatever")]);
    layout.tag("test", image);
    let store = store(dir.path());
    let error = store.import_layout(&layout.dir, None).await.unwrap_err();
    assert!(matches!(&error, ImageError::TooLarge(what) if what.contains("1000000 entries")), "{error}");
    assert_empty(dir.path());
}

#[tokio::test]
async fn nothing_but_plain_files_is_made_on_the_host() {
    let mut bed = Bed::new(config());
    let mut setuid = archive(&[("su", b'0', b"#!/bin/sh")]);
    setuid[100..107].copy_from_slice(b"0006777");
    crate::support::archive::seal(&mut setuid);
    setuid.truncate(1024);
    let mut block = archive(&[("disk", b'4', b"")]);
    block[329..336].copy_from_slice(b"0000010");
    block[337..344].copy_from_slice(b"0000001");
    crate::support::archive::seal(&mut block);
    block.truncate(512);
    let rest = archive(&[("pipe", b'6', b""), ("link", b'2', b"/etc/shadow"), ("hard", b'1', b"su")]);
    let image = import(&mut bed, &[&[setuid, block, rest].concat()]).await.unwrap();
    let mut todo = vec![bed.dir.path().join("store")];
    let mut files = 0;
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let metadata = entry.as_ref().unwrap().metadata().unwrap();
            if metadata.is_dir() {
                todo.push(entry.unwrap().path());
                continue;
            }
            assert!(metadata.is_file() && metadata.nlink() == 1, "{entry:?}");
            assert_eq!(metadata.mode() & 0o7111, 0, "{entry:?}");
            files += 1;
        }
    }
    assert!(files >= 5, "{files} files");
    // All of it is in the image.
    let out = tempfile::tempdir().unwrap();
    let found = extract(&bed.store, &image.id, out.path());
    assert!(fs::symlink_metadata(found.join("disk")).unwrap().file_type().is_block_device());
    assert_eq!(fs::metadata(found.join("hard")).unwrap().len(), 9);
}

#[tokio::test]
async fn sparse_files_that_lie_are_refused() {
    let sparse = |records: &[(&str, &str)], body: &[u8]| {
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| pax(key, value)).collect();
        archive(&[("h", b'x', &records), ("f", b'0', body)])
    };
    let one = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
    let map = |text: &str| [text.as_bytes(), &vec![0; 512 - text.len()], b"data"].concat();
    for (size, text) in [
        ("10", "1\n0\n5\n"),
        ("10", "1\n8\n4\n"),
        ("10", "2\n4\n2\n5\n2\n"),
        ("10", "1\n18446744073709551615\n4\n"),
        ("10", "x"),
        ("10", "1\n0\n"),
        ("-1", "1\n0\n4\n"),
    ] {
        let records = [one[0], one[1], ("GNU.sparse.realsize", size)];
        let error = refused(&[&sparse(&records, &map(text))]).await;
        assert!(matches!(error, ImageError::Corrupt(_)), "{size} {text:?}: {error}");
    }
    for size in ["9223372036854775807", "18446744073709551615"] {
        let error =
            refused(&[&sparse(&[one[0], one[1], ("GNU.sparse.realsize", size)], &map("1\n0\n4\n"))]).await;
        assert!(matches!(error, ImageError::TooLarge(_)), "{size}: {error}");
    }
    let error = refused(&[&sparse(&[("GNU.sparse.major", "2"), ("GNU.sparse.size", "9")], b"data")]).await;
    assert!(matches!(error, ImageError::Unsupported(_)), "{error}");
    for records in [
        &[("GNU.sparse.map", "0,4")][..],
        &[("GNU.sparse.size", "9"), ("GNU.sparse.map", "0,5")],
        &[("GNU.sparse.size", "9"), ("GNU.sparse.map", "0")],
        &[("GNU.sparse.size", "9"), ("GNU.sparse.map", "0,4"), ("GNU.sparse.map", "0,4")],
        &[("GNU.sparse.size", "9"), ("GNU.sparse.name", "../outside"), ("GNU.sparse.map", "0,4")],
        &[("GNU.sparse.size", "9"), ("size", "0"), ("GNU.sparse.map", "0,4")],
    ] {
        corrupt(&[&sparse(records, b"data")], "").await;
    }
    // The old format: a map that begins behind its file's end, and one that never ends.
    let mut old = archive(&[("f", b'S', b"data")]);
    old[124..135].copy_from_slice(b"00000000004");
    old[386..397].copy_from_slice(b"00000000100");
    old[398..409].copy_from_slice(b"00000000004");
    old[483..494].copy_from_slice(b"00000000004");
    crate::support::archive::seal(&mut old);
    corrupt(&[&old], "map").await;
    old[482] = 1;
    crate::support::archive::seal(&mut old);
    old.truncate(512);
    corrupt(&[&old], "no end").await;
    let mut extension = [b' '; 512];
    for at in (0..504).step_by(12) {
        extension[at..at + 11].copy_from_slice(b"00000000000");
    }
    extension[504] = 1;
    old.extend(extension.repeat(4000));
    let error = refused(&[&old]).await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn broken_compression_is_refused() {
    let tar = archive(&[("f", b'0', &b"some text ".repeat(1000))]);
    let mut window = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(28).unwrap();
    window.write_all(&tar).unwrap();
    let mut cases = vec![window.finish().unwrap()];
    for compression in [Compression::Gzip, Compression::Zstd] {
        let bed = Bed::new(small());
        let whole = bed.layout.layer(&tar, compression);
        let mut bytes = fs::read(bed.layout.blob_path(whole["digest"].as_str().unwrap())).unwrap();
        cases.push(bytes[..bytes.len() / 2].to_vec());
        cases.push(bytes[..6].to_vec());
        let middle = bytes.len() / 2;
        bytes[middle..middle + 20].fill(0xff);
        cases.push(bytes);
    }
    for bytes in cases {
        let mut bed = Bed::new(small());
        let layer = bed.layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &bytes);
        let error = bed.import(with_layers(&bed.layout, &[layer], &[digest(&tar)])).await.unwrap_err();
        assert!(matches!(error, ImageError::Corrupt(_)), "{error}");
        assert_empty(bed.dir.path());
    }
}

#[tokio::test]
async fn layers_must_be_what_the_configuration_says() {
    let mut bed = Bed::new(small());
    let (one, two) = (one_file("a", b"1"), one_file("a", b"2"));
    let layers = [bed.layout.layer(&one, Compression::Gzip), bed.layout.layer(&two, Compression::Gzip)];
    let (first, second) = (digest(&one), digest(&two));
    let wrong: [&[String]; 4] = [
        &[second.clone(), first.clone()],
        std::slice::from_ref(&first),
        &[first.clone(), second.clone(), second.clone()],
        &[first.clone(), "sha256:../../../outside".into()],
    ];
    for diff_ids in wrong {
        let error = bed.import(with_layers(&bed.layout, &layers, diff_ids)).await.unwrap_err();
        assert!(matches!(error, ImageError::Corrupt(_)), "{error}");
        assert_empty(bed.dir.path());
    }
    bed.import(with_layers(&bed.layout, &layers, &[first.clone(), second])).await.unwrap();
    assert_eq!(stored(bed.dir.path())[0].len(), 2);
}

/// What an image says of itself beside its layers and its process steers nothing.
#[tokio::test]
async fn labels_and_annotations_are_data() {
    let mut bed = Bed::new(config());
    let layer = archive(&[("file", b'0', b"x")]);
    let labels = json!({"io.husk.disk": "/dev/vda", "io.kubernetes.cri-o.Devices": "/dev/kvm",
        "containerd.io/snapshot/overlay.upperdir": "../../escape", "io.katacontainers.config.hypervisor.path": "/bin/sh"});
    let out = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for steering in [false, true] {
        let config = if steering { json!({"Labels": labels}) } else { json!({}) };
        let mut descriptor = bed.layout.image(&[(&layer, Compression::None)], "amd64", config);
        if steering {
            descriptor["annotations"] = labels.clone();
        }
        let image = bed.import(descriptor).await.unwrap();
        let disk = out.path().join(format!("{steering}"));
        compose(&bed.store, &image.id, &disk);
        disks.push(fs::read(&disk).unwrap());
    }
    // The superblock has the image's id.
    let content = |disk: &Vec<u8>| disk[4096..].to_vec();
    assert_eq!(disks[0].len(), disks[1].len());
    assert!(content(&disks[0]) == content(&disks[1]));
}
