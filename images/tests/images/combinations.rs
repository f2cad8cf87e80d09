//! Whatever layers do to each other, against what other tools unpack.

use serde_json::json;

use crate::support::chance::{self, Combinations};
use crate::support::containerd::Containerd;
use crate::support::layout::{Compression, Layout};
use crate::support::{extract, oracle, snapshot, store};

/// Images, of which containerd unpacks the first few as well.
const IMAGES: u64 = 50;
const CONTAINERD_IMAGES: u64 = 8;

#[tokio::test]
async fn whatever_layers_do_to_each_other_a_disk_has_what_gnu_tar_and_containerd_unpack() {
    assert!(rustix::process::geteuid().is_root(), "owners can be compared by root only");
    let daemon = tempfile::tempdir().unwrap();
    let containerd = Containerd::start(&daemon.path().join("containerd"));
    let (mut whiteouts, mut opaque) = (0, 0);
    for seed in 1..=IMAGES {
        let made = chance::image(seed, Combinations::All);
        whiteouts += made.whiteouts;
        opaque += made.opaque;
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::new(&dir.path().join("layout"));
        let packed: Vec<_> = made.archives.iter().map(|tar| (tar.as_slice(), Compression::None)).collect();
        layout.tag("test", layout.image(&packed, "amd64", json!({})));
        let store = store(dir.path());
        let image = store.import_layout(&layout.dir, None).await.unwrap_or_else(|e| panic!("{seed}: {e}"));
        let found = snapshot::take(&extract(&store, &image.id, dir.path()), false);
        let expected = dir.path().join("expected");
        std::fs::create_dir(&expected).unwrap();
        oracle::unpack(&made.archives, &expected);
        println!("image {seed}");
        snapshot::assert_same(&snapshot::take(&expected, false), &found);
        if seed <= CONTAINERD_IMAGES {
            let expected = snapshot::take(&containerd.unpack(&layout.dir), false);
            let [expected, found] = [expected, found].map(snapshot::without_times_of_directories);
            snapshot::assert_same(&expected, &found);
        }
    }
    assert!(whiteouts > 200 && opaque > 50, "{whiteouts} whiteouts, {opaque} opaque directories");
}
