//! How much a container has written into its root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_proto::agent::FileSystem;
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::statvfs;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::block;

/// How long a count is good for: kubelet asks every ten seconds, and counting reads every directory.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// The most files counted: a tenant decides how many there are.
const MAX_FILES: u64 = 1_000_000;

/// The last count of a writable layer.
#[derive(Default)]
pub struct Usage {
    last: Mutex<Option<(Instant, u64, u64)>>,
}

impl Usage {
    /// Bytes and inodes below `layer`; those counted shortly before, when they are.
    pub async fn of(&self, layer: PathBuf) -> (u64, u64) {
        let mut last = self.last.lock().await;
        match *last {
            Some((when, bytes, inodes)) if when.elapsed() < GOOD_FOR => (bytes, inodes),
            _ => {
                let counted = tokio::task::spawn_blocking(move || count(layer)).await;
                let (bytes, inodes) = counted.unwrap_or_default();
                *last = Some((Instant::now(), bytes, inodes));
                (bytes, inodes)
            }
        }
    }
}

/// The file system that `layer` is in; `None` when there is no such layer.
pub fn filesystem(layer: &Path) -> Option<FileSystem> {
    let device = fs::metadata(layer).ok()?.dev();
    let figures = statvfs(layer).ok()?;
    Some(FileSystem {
        device: block::name(major(device), minor(device)),
        bytes: figures.blocks().saturating_mul(figures.fragment_size()),
        inodes: figures.files(),
        free_inodes: figures.files_available(),
    })
}

/// What cannot be read, because it is being removed or its path is longer than a path may be, is not counted.
fn count(layer: PathBuf) -> (u64, u64) {
    let (mut bytes, mut inodes): (u64, u64) = (0, 0);
    let mut directories = vec![layer];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            inodes += 1;
            if inodes >= MAX_FILES {
                return (bytes, inodes);
            }
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/f"), vec![b'x'; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let (bytes, inodes) = count(dir.path().to_owned());
        assert_eq!(inodes, 3);
        assert!((8192..1 << 20).contains(&bytes), "{bytes}");
        assert_eq!(count(dir.path().join("none")), (0, 0));
    }

    #[test]
    fn a_layers_file_system_is_larger_than_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = filesystem(dir.path()).unwrap();
        assert!(found.bytes > 0 && found.free_inodes <= found.inodes, "{found:?}");
        assert!(filesystem(&dir.path().join("none")).is_none());
    }
}
