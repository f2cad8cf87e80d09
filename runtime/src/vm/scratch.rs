//! Scratch disks: sparse copies of one empty ext4 file system that the host made and never mounts.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::SeekFrom;

use crate::error::{Error, Result};

/// The empty file system.
pub struct ScratchTemplate {
    path: PathBuf,
    size: u64,
}

impl ScratchTemplate {
    /// Makes the template for disks of `mib` MiB in `dir`, or finds it made.
    pub fn prepare(dir: &Path, mib: u64) -> Result<ScratchTemplate> {
        let size = mib << 20;
        let path = dir.join(format!("scratch-{mib}.ext4"));
        if path.exists() {
            return Ok(ScratchTemplate { path, size });
        }
        let half_made = path.with_extension("new");
        make(&half_made, size)?.sync_all().map_err(|e| Error::io("sync", &half_made, e))?;
        std::fs::rename(&half_made, &path).map_err(|e| Error::io("rename", &half_made, e))?;
        Ok(ScratchTemplate { path, size })
    }

    /// A new disk of `bytes` bytes at `path`, opened for reading and writing. One of another size than the
    /// template's takes longer.
    pub fn instantiate(&self, path: &Path, bytes: u64) -> Result<File> {
        if bytes != self.size {
            return make(path, bytes);
        }
        let copy = || -> std::io::Result<File> {
            let from = File::open(&self.path)?;
            let to = open(path)?;
            to.set_len(self.size)?;
            copy_data(&from, &to)?;
            Ok(to)
        };
        copy().map_err(|e| Error::io("make the scratch disk", path, e))
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// A new file at `path` with an empty file system of `bytes` bytes.
fn make(path: &Path, bytes: u64) -> Result<File> {
    let file = open(path).map_err(|e| Error::io("create", path, e))?;
    file.set_len(bytes).map_err(|e| Error::io("size", path, e))?;
    // No journal: a scratch disk is thrown away with its pod and never mounted twice.
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"])
        .args(["-E", "lazy_itable_init=1,nodiscard"])
        .arg(path)
        .output()
        .map_err(|e| {
            let missing = || Error::Unavailable(format!("cannot run mke2fs ({e}): install e2fsprogs"));
            Error::of_host(&format!("cannot run mke2fs: {e}"), &e).unwrap_or_else(missing)
        })?;
    if !output.status.success() {
        return Err(Error::Internal(format!("mke2fs: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(file)
}

/// Copies what is not a hole.
fn copy_data(from: &File, to: &File) -> std::io::Result<()> {
    let mut buffer = vec![0u8; 64 << 10];
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let got = from.read_at(&mut buffer[..want], at)?;
            if got == 0 {
                return Ok(());
            }
            to.write_all_at(&buffer[..got], at)?;
            at += got as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_scratch_disk_is_sparse_and_a_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let template = ScratchTemplate::prepare(dir.path(), 256).unwrap();
        let disk = template.instantiate(&dir.path().join("disk"), 256 << 20).unwrap();
        let meta = disk.metadata().unwrap();
        assert_eq!(meta.len(), 256 << 20);
        assert!(meta.blocks() * 512 < 16 << 20, "{} bytes on disk", meta.blocks() * 512);
        let larger = template.instantiate(&dir.path().join("larger"), 1 << 30).unwrap();
        assert_eq!(larger.metadata().unwrap().len(), 1 << 30);
        assert!(larger.metadata().unwrap().blocks() * 512 < 32 << 20);
        for name in ["disk", "larger"] {
            let check = Command::new("e2fsck").args(["-fn"]).arg(dir.path().join(name)).output().unwrap();
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        }
    }
}
