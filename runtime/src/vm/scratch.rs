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
        let file = File::create(&half_made).map_err(|e| Error::io("create", &half_made, e))?;
        file.set_len(size).map_err(|e| Error::io("size", &half_made, e))?;
        // No journal: a scratch disk is thrown away with its pod and never mounted twice.
        let output = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"])
            .args(["-E", "lazy_itable_init=1,nodiscard"])
            .arg(&half_made)
            .output()
            .map_err(|e| Error::Unavailable(format!("cannot run mke2fs ({e}): install e2fsprogs")))?;
        if !output.status.success() {
            return Err(Error::Internal(format!(
                "mke2fs: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        file.sync_all().map_err(|e| Error::io("sync", &half_made, e))?;
        std::fs::rename(&half_made, &path).map_err(|e| Error::io("rename", &half_made, e))?;
        Ok(ScratchTemplate { path, size })
    }

    /// A new disk at `path`, opened for reading and writing.
    pub fn instantiate(&self, path: &Path) -> Result<File> {
        let copy = || -> std::io::Result<File> {
            let from = File::open(&self.path)?;
            let to = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
            to.set_len(self.size)?;
            copy_data(&from, &to)?;
            Ok(to)
        };
        copy().map_err(|e| Error::io("make the scratch disk", path, e))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
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
        let disk = template.instantiate(&dir.path().join("disk")).unwrap();
        let meta = disk.metadata().unwrap();
        assert_eq!(meta.len(), 256 << 20);
        assert!(meta.blocks() * 512 < 16 << 20, "{} bytes on disk", meta.blocks() * 512);
        let check = Command::new("e2fsck").args(["-fn"]).arg(dir.path().join("disk")).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}
