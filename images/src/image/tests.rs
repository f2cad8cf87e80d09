//! Images checked by an independent reader: `fsck.erofs`, which also extracts them.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LayerInput, build_image};
use crate::convert::tests::{archive, pax};
use crate::convert::{ConvertError, Limits, convert_layer};

/// Converts and merges `layers`, writes the composed disk into `dir`, checks and extracts it.
fn build(dir: &Path, layers: &[Vec<u8>]) -> Result<PathBuf, ConvertError> {
    let mut inputs = Vec::new();
    let mut disks = Vec::new();
    for layer in layers {
        let (data, tree) = (tempfile::NamedTempFile::new().unwrap(), tempfile::tempfile().unwrap());
        let verdict = convert_layer(&layer[..], data.as_file(), &tree, &Limits::default())?;
        inputs.push(LayerInput { tree, data_len: verdict.data_len });
        disks.push(data);
    }
    let meta = dir.join("meta");
    let built = build_image(&inputs, [7; 16], &File::create_new(&meta).unwrap(), &Limits::default())?;
    assert_eq!(std::fs::metadata(&meta).unwrap().len(), built.meta_len);
    assert_eq!((built.meta_len % 4096, built.disk), (0, None));
    let mut disk = std::fs::read(&meta).unwrap();
    for data in &disks {
        disk.extend_from_slice(&std::fs::read(data.path()).unwrap());
    }
    let path = dir.join("disk");
    std::fs::write(&path, disk).unwrap();
    let out = dir.join("out");
    let check = Command::new("fsck.erofs").arg(format!("--extract={}", out.display())).arg(&path).output();
    let check = check.expect("fsck.erofs (erofs-utils) is installed");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    Ok(out)
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn contents_links_and_owners_survive() {
    let dir = tempfile::tempdir().unwrap();
    let big: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    let long = "t/".repeat(2000);
    let layer = archive(&[
        ("./", b'5', b""),
        ("bin/", b'5', b""),
        ("bin/sh", b'0', b"#!"),
        ("bin/hard", b'1', b"bin/sh"),
        ("bin/soft", b'2', b"../bin/sh"),
        ("big", b'0', big.as_bytes()),
        ("empty", b'0', b""),
        ("implied/deep/file", b'0', b"x"),
        ("p", b'6', b""),
        ("h", b'x', &[pax("linkpath", &long), pax("mtime", "123456789.25")].concat()),
        ("longlink", b'2', b""),
        ("h", b'x', &[pax("uid", "70000"), pax("SCHILY.xattr.user.k", "value")].concat()),
        ("owned", b'0', b"o"),
    ]);
    let out = build(dir.path(), &[layer]).unwrap();
    assert_eq!(read(out.join("big")), big);
    assert_eq!(read(out.join("bin/soft")), "#!");
    assert_eq!(read(out.join("bin/hard")), "#!");
    assert_eq!(read(out.join("empty")), "");
    assert_eq!(read(out.join("implied/deep/file")), "x");
    assert_eq!(std::fs::read_link(out.join("longlink")).unwrap().as_os_str().len(), long.len());
    let owned = std::fs::metadata(out.join("owned")).unwrap();
    assert_eq!((owned.uid(), owned.permissions().mode() & 0o7777), (70_000, 0o644));
}

#[test]
fn directories_of_many_blocks_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..3000).map(|n| format!("d/{n}-{}", "n".repeat(n % 90))).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), b'0', name.as_bytes())).collect();
    let out = build(dir.path(), &[archive(&entries)]).unwrap();
    for name in &names {
        assert_eq!(&read(out.join(name)), name);
    }
    assert_eq!(std::fs::read_dir(out.join("d")).unwrap().count(), names.len());
}

#[test]
fn whiteouts_hide_what_is_below_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let lower = archive(&[("a/x", b'0', b"1"), ("a/y", b'0', b"1"), ("b/x", b'0', b"1"), ("c", b'0', b"1")]);
    let upper = archive(&[
        ("a/.wh.x", b'0', b""),
        ("b/new", b'0', b"2"),
        ("b/.wh..wh..opq", b'0', b""),
        (".wh.c", b'0', b""),
        ("c/d", b'0', b"2"),
        (".wh.missing", b'0', b""),
        ("no/such/.wh.x", b'0', b""),
    ]);
    let out = build(dir.path(), &[lower, upper]).unwrap();
    assert!(!out.join("a/x").exists() && out.join("a/y").exists());
    assert!(!out.join("b/x").exists() && out.join("b/new").exists());
    assert_eq!(read(out.join("c/d")), "2");
    assert!(!out.join("no").exists());
}

#[test]
fn upper_layers_write_through_links_of_lower_ones_inside_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let lower = archive(&[
        ("usr/lib/old", b'0', b"1"),
        ("lib", b'2', b"usr/lib"),
        ("out", b'2', b"/../../../../etc"),
        ("loop", b'2', b"loop"),
    ]);
    let upper = archive(&[("lib/new", b'0', b"2"), ("out/inside", b'0', b"3"), ("copy", b'1', b"lib/old")]);
    let out = build(dir.path(), &[lower.clone(), upper]).unwrap();
    assert_eq!(read(out.join("usr/lib/new")), "2");
    assert_eq!(read(out.join("etc/inside")), "3");
    assert_eq!(read(out.join("copy")), "1");
    let error = |upper: &[(&str, u8, &[u8])]| {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &[lower.clone(), archive(upper)]).expect_err("accepted").to_string()
    };
    assert!(error(&[("loop/x", b'0', b"")]).contains("symbolic links"));
    assert!(error(&[("lib/.wh.old", b'0', b"")]).contains("whiteout goes through"));
    assert!(error(&[("lib/.wh..wh..opq", b'0', b"")]).contains("whiteout goes through"));
    assert!(error(&[("usr/lib/old/x", b'0', b"")]).contains("directory"));
    assert!(error(&[("h", b'1', b"nowhere")]).contains("no file"));
    assert!(error(&[("h", b'1', b"usr/lib")]).contains("no file"));
}

#[test]
fn a_hard_links_entry_gives_its_metadata_to_the_file_under_all_names() {
    let dir = tempfile::tempdir().unwrap();
    let owner = pax("uid", "70000");
    let lower = archive(&[("f", b'0', b"x"), ("d/g", b'1', b"f"), ("other", b'0', b"x")]);
    let upper = archive(&[("h", b'x', &owner), ("l", b'1', b"d/g"), ("h", b'x', &owner), (".", b'5', b"")]);
    let out = build(dir.path(), &[lower, upper]).unwrap();
    let owners = ["f", "d/g", "l", "other", "."].map(|name| std::fs::metadata(out.join(name)).unwrap().uid());
    // The root stays as containerd makes it.
    assert_eq!(owners, [70_000, 70_000, 70_000, 0, 0]);
}

#[test]
fn a_directory_may_replace_a_link_and_be_opaque() {
    let dir = tempfile::tempdir().unwrap();
    let lower = archive(&[("real/keep", b'0', b"1"), ("d", b'2', b"real")]);
    let upper = archive(&[("d/", b'5', b""), ("d/.wh..wh..opq", b'0', b""), ("d/f", b'0', b"2")]);
    let out = build(dir.path(), &[lower, upper]).unwrap();
    assert_eq!(read(out.join("real/keep")), "1");
    assert_eq!(read(out.join("d/f")), "2");
    assert!(!std::fs::symlink_metadata(out.join("d")).unwrap().is_symlink());
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let dir = tempfile::tempdir().unwrap();
    let out = build(dir.path(), &[]).unwrap();
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0);
}

#[test]
fn the_number_of_inodes_is_bounded() {
    let tree = tempfile::tempfile().unwrap();
    let layer = archive(&[(&"a/".repeat(40), b'5', b"")]);
    convert_layer(&layer[..], &tempfile::tempfile().unwrap(), &tree, &Limits::default()).unwrap();
    let limits = Limits { entries: 10, ..Limits::default() };
    let meta = tempfile::tempfile().unwrap();
    let built = build_image(&[LayerInput { tree, data_len: 0 }], [0; 16], &meta, &limits);
    assert!(matches!(built, Err(ConvertError::TooLarge(_))));
}
