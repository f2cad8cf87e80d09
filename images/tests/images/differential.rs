//! An image's disk against what other tools make of the same layers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::support::containerd::Containerd;
use crate::support::layout::{Compression, Layout};
use crate::support::{extract, layers, oracle, run, snapshot, store};

#[tokio::test]
async fn a_disk_has_what_gnu_tar_unpacks() {
    assert!(rustix::process::geteuid().is_root(), "owners and devices can be compared by root only");
    let archives = layers::layers();
    let (dir, found) = extracted(&archives, [Compression::Gzip, Compression::None, Compression::Zstd]).await;
    let disk = dir.path().join("disk");
    let su = run(Command::new("dump.erofs").arg("--path=/bin/su").arg(&disk));
    assert!(su.contains("Links: 3"), "{su}");
    assert_eq!(mode(&disk, &su), 0o10_6711);
    let expected = dir.path().join("expected");
    std::fs::create_dir(&expected).unwrap();
    oracle::unpack(&archives, &expected);
    assert_same_but_for_links(&expected, &found);
}

#[tokio::test]
async fn a_disk_has_what_umoci_unpacks() {
    assert!(rustix::process::geteuid().is_root(), "owners and devices can be compared by root only");
    // Debian's umoci knows no zstd.
    let (dir, found) = extracted(&layers::layers(), [Compression::Gzip; 3]).await;
    let (image, bundle) = (dir.path().join("layout:test"), dir.path().join("bundle"));
    run(Command::new("umoci").args(["unpack", "--image"]).arg(image).arg(&bundle));
    assert_same_but_for_links(&bundle.join("rootfs"), &found);
}

fn assert_same_but_for_links(expected: &Path, found: &Path) {
    let [expected, found] = [expected, found]
        .map(|root| snapshot::without_metadata_of(&layers::LINKED, snapshot::take(root, false)));
    snapshot::assert_same(&expected, &found);
}

#[tokio::test]
async fn a_disk_has_what_containerd_unpacks() {
    assert!(rustix::process::geteuid().is_root(), "owners and devices can be compared by root only");
    let compressions = [Compression::Gzip, Compression::None, Compression::Zstd];
    let (dir, found) = extracted(&layers::layers(), compressions).await;
    let containerd = Containerd::start(&dir.path().join("containerd"));
    let root = containerd.unpack(&dir.path().join("layout"));
    assert_same_but_for_times_of_directories(&root, &found);
}

/// containerd's copies of a layer's parent lose the times of its directories; the test `mount` compares these too.
fn assert_same_but_for_times_of_directories(expected: &Path, found: &Path) {
    let [expected, found] =
        [expected, found].map(|root| snapshot::without_times_of_directories(snapshot::take(root, false)));
    snapshot::assert_same(&expected, &found);
}

/// Imports an image of those layers, and extracts its disk: the directory, and the one in it with the image's
/// files.
async fn extracted(archives: &[Vec<u8>], compressions: [Compression; 3]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let packed: Vec<_> = archives.iter().map(Vec::as_slice).zip(compressions).collect();
    layout.tag("test", layout.image(&packed, "amd64", json!({"Cmd": ["sh"]})));
    let store = store(dir.path());
    let image = store.import_layout(&layout.dir, Some("test")).await.unwrap();
    let found = extract(&store, &image.id, dir.path());
    (dir, found)
}

#[tokio::test]
async fn sparse_files_of_every_format_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    // Parts before, between and behind holes; only holes; a hole at either end; more parts than a header holds.
    let many: Vec<u64> = (0..60).map(|n| n * 3).collect();
    for (name, pages, length) in
        [("mixed", &[0, 7, 8, 300][..], 301), ("empty", &[], 100), ("inner", &[5], 10), ("many", &many, 200)]
    {
        let file = File::create_new(files.join(name)).unwrap();
        for page in pages {
            file.write_all_at(&[b'x'; 4096], page * 4096).unwrap();
        }
        file.set_len(length * 4096 + 5).unwrap();
    }
    let mut layout = Layout::new(&dir.path().join("layout"));
    let mut archives = Vec::new();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let archive = dir.path().join("archive");
        let prefix = format!("--transform=s,^,{}/,", format.join("").replace("--", ""));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sparse", "--sort=name", &prefix]).args(format).arg("--file").arg(&archive);
        run(tar.arg("--directory").arg(&files).args(["mixed", "empty", "inner", "many"]));
        archives.push(std::fs::read(&archive).unwrap());
        assert!(archives.last().unwrap().len() < 400_000, "GNU tar wrote the holes");
        std::fs::remove_file(archive).unwrap();
    }
    let packed: Vec<_> = archives.iter().map(|tar| (tar.as_slice(), Compression::Gzip)).collect();
    layout.tag("test", layout.image(&packed, "amd64", json!({})));
    let store = store(dir.path());
    let image = store.import_layout(&layout.dir, Some("test")).await.unwrap();
    let found = extract(&store, &image.id, dir.path());
    let mut compared = 0;
    for format in std::fs::read_dir(&found).unwrap() {
        for file in std::fs::read_dir(format.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let original = files.join(file.file_name());
            assert!(std::fs::read(file.path()).unwrap() == std::fs::read(&original).unwrap(), "{file:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 16);
    // containerd knows all of these but GNU tar's old format.
    layout.tag("test", layout.image(&packed[1..], "amd64", json!({})));
    let containerd = Containerd::start(&dir.path().join("containerd"));
    let expected = containerd.unpack(&layout.dir);
    std::fs::remove_dir_all(found.join("format=gnu")).unwrap();
    assert_same_but_for_times_of_directories(&expected, &found);
    // Holes stay holes.
    let disk: u64 = image.size;
    let used = store.usage().unwrap().bytes;
    assert!(used < disk / 2, "{used} bytes for a disk of {disk}");
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
