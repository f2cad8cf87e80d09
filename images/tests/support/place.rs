//! A place where disks of images are mounted beside what containerd unpacks. It needs root, EROFS, loop devices, and
//! mounts that nobody minds: a host that may be spoiled, or a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde_json::json;
use tempfile::TempDir;

use super::containerd::{Containerd, Snapshotter};
use super::layout::{Compression, Layout};
use super::snapshot::{self, Tree};
use super::{compose, run, store};

/// The place, in a directory that goes with it.
pub struct Place {
    pub dir: TempDir,
    containerd: Containerd,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["mounted", "expected"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let containerd = Containerd::start(&dir.path().join("containerd"));
        Self { dir, containerd }
    }

    /// A layout whose only image, `test`, has those layers.
    pub fn layout(&self, archives: &[Vec<u8>]) -> Layout {
        let mut layout = Layout::new(&self.empty("layout"));
        let packed: Vec<_> = archives.iter().map(|tar| (tar.as_slice(), Compression::Gzip)).collect();
        layout.tag("test", layout.image(&packed, "amd64", json!({})));
        layout
    }

    /// A layout whose only image, `test`, is `tag` of the layout in `from`.
    pub fn layout_of(&self, from: &Path, tag: &str) -> Layout {
        Layout::of(from, tag, &self.empty("layout"))
    }

    /// What Linux sees on the disk that husk makes of the layout's image.
    pub async fn found(&self, layout: &Layout) -> Tree {
        let (disk, mounted) = (self.dir.path().join("disk"), self.dir.path().join("mounted"));
        let store = store(self.dir.path());
        let image = store.import_layout(&layout.dir, Some("test")).await.unwrap();
        compose(&store, &image.id, &disk);
        run(Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).arg(&disk).arg(&mounted));
        let found = snapshot::take(&mounted, true);
        snapshot::assert_links_are_counted(&mounted);
        run(Command::new("umount").arg(&mounted));
        std::fs::remove_file(disk).unwrap();
        found
    }

    /// Fails unless Linux sees on the disk all that containerd unpacks, but for times that containerd does not set.
    /// Answers the files' number.
    pub async fn compare(&self, layout: &Layout, snapshotter: Snapshotter) -> usize {
        let begun = SystemTime::now();
        let mut expected = match snapshotter {
            Snapshotter::Overlayfs => {
                let root = self.dir.path().join("expected");
                self.containerd.mount(&layout.dir, "test", &root);
                let expected = snapshot::take(&root, true);
                self.containerd.unmount(&root);
                expected
            }
            Snapshotter::Native => snapshot::take(&self.containerd.unpack(&layout.dir), true),
        };
        let mut found = self.found(layout).await;
        snapshot::without_times_of_unpacking(begun, &mut expected, &mut found);
        snapshot::assert_same(&expected, &found);
        found.len()
    }

    fn empty(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }
}
