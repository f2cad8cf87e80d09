//! Removes trees that tenants made: of any width and any depth, in bounded memory, never following a link.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Context, Result};
use crate::paths;

/// Where trees wait for their removal, in the scratch space.
pub const DIRECTORY: &str = "trash";

/// Moves `tree`, which is in the scratch space, away at once and removes it in the background. There need not
/// be one.
pub fn discard(tree: &Path) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let holder =
        Path::new(paths::SCRATCH).join(DIRECTORY).join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir(&holder).context(|| format!("making {}", holder.display()))?;
    match fs::rename(tree, holder.join("0")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return fs::remove_dir(&holder).context(|| format!("removing {}", holder.display()));
        }
        result => result.context(|| format!("moving {} to the trash", tree.display()))?,
    }
    tokio::task::spawn_blocking(move || {
        if let Err(e) = empty(&holder) {
            tracing::warn!("removing {}: {e}", holder.display());
        }
    });
    Ok(())
}

/// Removes `holder`, which holds one directory, `0`. Each directory found below is moved up into `holder` under
/// the next number, so that no path grows and nothing recurs.
fn empty(holder: &Path) -> io::Result<()> {
    let mut known: u64 = 1;
    let mut next = 0;
    while next < known {
        let directory = holder.join(next.to_string());
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::rename(entry.path(), holder.join(known.to_string()))?;
                known += 1;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_dir(&directory)?;
        next += 1;
    }
    fs::remove_dir(holder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn deep_and_odd_trees_go_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "k").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let holder = dir.path().join("h");
        let top = holder.join("0");
        fs::create_dir_all(&top).unwrap();
        symlink(outside.path(), top.join("link")).unwrap();
        // The numbers are what the removal itself uses.
        for name in ["0", "1", "2"] {
            fs::create_dir_all(top.join(name).join("1")).unwrap();
            fs::write(top.join(name).join("f"), "x").unwrap();
        }
        // Deeper than any path can name.
        let mut deep =
            nix::dir::Dir::open(&top, nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..40 {
            nix::sys::stat::mkdirat(&deep, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let flags = nix::fcntl::OFlag::O_DIRECTORY;
            deep = nix::dir::Dir::openat(&deep, name.as_str(), flags, nix::sys::stat::Mode::empty()).unwrap();
        }
        drop(deep);
        empty(&holder).unwrap();
        assert!(!holder.exists());
        assert!(outside.path().join("kept").exists());
    }
}
