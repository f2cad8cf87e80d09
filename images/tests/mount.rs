//! The guest's side: Linux itself mounts a disk and sees what containerd and GNU tar unpack, attributes and links
//! included. To be run as root on a host that may be spoiled:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/testbed/run \
//!         cargo test --release -p husk-images --test mount

mod support;

use std::process::Command;

use husk_tests::Paths;
use support::chance::{self, Combinations};
use support::containerd::Snapshotter;
use support::place::Place;
use support::{layers, oracle, run, snapshot};

/// Images that chance makes.
const BY_CHANCE: u64 = 4;

fn place() -> Place {
    run(Command::new("modprobe").args(["-a", "loop", "erofs", "overlay"]));
    Place::new()
}

#[tokio::test]
async fn linux_mounts_a_disk_and_sees_what_gnu_tar_unpacks() {
    let place = place();
    let archives = layers::layers();
    let root = place.dir.path().join("expected");
    oracle::unpack(&archives, &root);
    let expected = snapshot::take(&root, true);
    let found = place.found(&place.layout(&archives)).await;
    let [expected, found] =
        [expected, found].map(|tree| snapshot::without_metadata_of(&layers::LINKED, tree));
    snapshot::assert_same(&expected, &found);
}

#[tokio::test]
async fn linux_mounts_a_disk_and_sees_what_containerd_unpacks() {
    let place = place();
    place.compare(&place.layout(&layers::layers()), Snapshotter::Overlayfs).await;
    place.compare(&place.layout(&[layers::peculiar()]), Snapshotter::Overlayfs).await;
    // For overlayfs containerd cannot unpack links to files of lower layers.
    place.compare(&place.layout(&layers::links_across_layers()), Snapshotter::Native).await;
    for seed in 1..=BY_CHANCE {
        let image = chance::image(seed, Combinations::Overlayfs);
        place.compare(&place.layout(&image.archives), Snapshotter::Overlayfs).await;
    }
}

#[tokio::test]
async fn linux_mounts_disks_of_real_programs_and_sees_what_containerd_unpacks() {
    let place = place();
    let images = Paths::find().images();
    let files = place.compare(&place.layout_of(&images, "nginx"), Snapshotter::Overlayfs).await;
    assert!(files > 300, "{files} files");
    // This one has a link to a file of a lower layer, and a layer packed with zstd.
    place.compare(&place.layout_of(&images, "layers"), Snapshotter::Native).await;
}
