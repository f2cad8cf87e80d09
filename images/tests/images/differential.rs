//! An image's disk against what GNU tar makes of the same layers.

use serde_json::json;

use crate::support::layout::{Compression, Layout};
use crate::support::{extract, layers, oracle, snapshot, store};

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
    let expected = dir.path().join("expected");
    std::fs::create_dir(&expected).unwrap();
    oracle::unpack(&archives, &expected);
    snapshot::assert_same(&snapshot::take(&expected, false), &snapshot::take(&found, false));
}
