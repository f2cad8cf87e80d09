//! The guest's side: Linux itself mounts a disk and sees what containerd and GNU tar unpack, attributes and links
//! included. To be run as root where the kernel has EROFS and overlayfs, in a mount namespace of its own:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="unshare --mount --propagation private" \
//!         cargo test --release -p husk-images --test mount

mod support;

use husk_tests::Paths;
use support::chance::{self, Combinations};
use support::containerd::Snapshotter;
use support::place::Place;
use support::{layers, oracle, snapshot};

/// Images that chance makes.
const BY_CHANCE: u64 = 4;

#[tokio::test]
async fn linux_mounts_a_disk_and_sees_what_gnu_tar_unpacks() {
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
    let images = Paths::find().images();
    let files = place.compare(&place.layout_of(&images, "nginx"), Snapshotter::Overlayfs).await;
    assert!(files > 300, "{files} files");
    // This one has a link to a file of a lower layer, and a layer packed with zstd.
    place.compare(&place.layout_of(&images, "layers"), Snapshotter::Native).await;
}
