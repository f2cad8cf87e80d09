//! An image's disk against what GNU tar makes of the same layers.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::layout::{Compression, Layout};
use crate::support::{extract, layers, oracle, run, snapshot, store};

#[tokio::test]
async fn a_disk_has_what_gnu_tar_unpacks() {
    assert!(rustix::process::geteuid().is_root(), "owners and devices can be compared by root only");
    let dir = tempfile::tempdir().unwrap();
    let archives = layers::layers();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let compressions = [Compression::Gzip, Compression::None, Compression::Zstd];
    let packed: Vec<_> = archives.iter().map(Vec::as_slice).zip(compressions).collect();
    layout.tag("test", layout.image(&packed, "amd64", json!({"Cmd": ["sh"]})));
    let store = store(dir.path());
    let image = store.import_layout(&layout.dir, Some("test")).await.unwrap();
    let found = extract(&store, &image.id, dir.path());
    let disk = dir.path().join("disk");
    let su = run(Command::new("dump.erofs").arg("--path=/bin/su").arg(&disk));
    assert!(su.contains("Links: 3"), "{su}");
    assert_eq!(mode(&disk, &su), 0o10_4755);
    let expected = dir.path().join("expected");
    std::fs::create_dir(&expected).unwrap();
    oracle::unpack(&archives, &expected);
    snapshot::assert_same(&snapshot::take(&expected, false), &snapshot::take(&found, false));
}

/// The mode of the inode that `dump.erofs` described; neither that tool nor extraction shows setuid bits.
fn mode(disk: &Path, dump: &str) -> u16 {
    let nid = dump.split("NID: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let nid: usize = nid.unwrap().parse().unwrap();
    let disk = std::fs::read(disk).unwrap();
    // The superblock's meta_blkaddr, in blocks of 4096 bytes; inodes lie at multiples of 32 from there.
    let first = u32::from_le_bytes(disk[1024 + 40..][..4].try_into().unwrap()) as usize * 4096;
    u16::from_le_bytes(disk[first + nid * 32 + 4..][..2].try_into().unwrap())
}
