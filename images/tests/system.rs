//! A real system, Debian with a build's step on top: Linux mounts its disk and sees what containerd unpacks. To be
//! run as `mount` is, after `tests/images/disks` has made the image:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="unshare --mount --propagation private" \
//!         cargo test --release -p husk-images --test system

mod support;

use husk_tests::Paths;
use support::containerd::Snapshotter;
use support::place::Place;

#[tokio::test]
async fn linux_mounts_the_disk_of_a_system_and_sees_what_containerd_unpacks() {
    let place = Place::new();
    let layout = place.layout_of(&Paths::find().disks().join("system"), "system");
    let files = place.compare(&layout, Snapshotter::Overlayfs).await;
    assert!(files > 4000, "{files} files");
}
