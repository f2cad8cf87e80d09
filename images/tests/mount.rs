//! The guest's side: Linux itself mounts a disk and sees what GNU tar unpacks, attributes and links included.
//! To be run as root on a host that may be spoiled:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/testbed/run \
//!         cargo test --release -p husk-images --test mount

mod support;

use std::process::Command;

use serde_json::json;
use support::layout::{Compression, Layout};
use support::{compose, layers, oracle, run, snapshot, store};

#[tokio::test]
async fn linux_mounts_a_disk_and_sees_what_gnu_tar_unpacks() {
    let dir = tempfile::tempdir().unwrap();
    let archives = layers::layers();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let packed: Vec<_> = archives.iter().map(|tar| (tar.as_slice(), Compression::Gzip)).collect();
    layout.tag("test", layout.image(&packed, "amd64", json!({})));
    let store = store(dir.path());
    let image = store.import_layout(&layout.dir, None).await.unwrap();
    let (disk, mounted, expected) =
        (dir.path().join("disk"), dir.path().join("mounted"), dir.path().join("expected"));
    compose(&store, &image.id, &disk);
    std::fs::create_dir(&mounted).unwrap();
    std::fs::create_dir(&expected).unwrap();
    oracle::unpack(&archives, &expected);
    run(Command::new("modprobe").args(["-a", "loop", "erofs"]));
    run(Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).arg(&disk).arg(&mounted));
    let found = snapshot::take(&mounted, true);
    run(Command::new("umount").arg(&mounted));
    snapshot::assert_same(&snapshot::take(&expected, true), &found);
}
