//! The store's files: `layers/HEX/{data,tree}`, `images/HEX/{meta,config,manifest}`, and `tmp/` for what is
//! being made. A directory is made in `tmp`, synced, and renamed to its place; only then is it recorded.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use husk_failpoint::reach;

use super::index::Sealed;
use super::seal::seal;
use crate::digest;
use crate::error::{IoContext, Result};

/// What the store's content takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of allocated blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// The directories.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    /// Makes what is missing below `root`, readable by its owner alone.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for dir in [root.to_owned(), root.join("layers"), root.join("images"), root.join("tmp")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.during(|| format!("making {}", dir.display()))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    pub(crate) fn layer(&self, diff_id: &str) -> Result<PathBuf> {
        Ok(self.root.join("layers").join(digest::hex(diff_id)?))
    }

    pub(crate) fn image(&self, id: &str) -> Result<PathBuf> {
        Ok(self.root.join("images").join(digest::hex(id)?))
    }

    /// Bytes that a layer's data takes.
    pub(crate) fn allocated(&self, diff_id: &str) -> Result<u64> {
        let path = self.layer(diff_id)?.join("data");
        let metadata = path.metadata().during(|| format!("looking at {}", path.display()))?;
        Ok(metadata.blocks() * 512)
    }

    /// A new directory in `tmp`.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        let path = self.root.join("tmp").join(uuid::Uuid::new_v4().simple().to_string());
        DirBuilder::new().mode(0o700).create(&path).during(|| format!("making {}", path.display()))?;
        Ok(Scratch { path: Some(path) })
    }

    /// Removes the directory at `path`, at once from its place.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let aside = self.root.join("tmp").join(uuid::Uuid::new_v4().simple().to_string());
        match fs::rename(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved.during(|| format!("removing {}", path.display()))?,
        }
        reach(format_args!("put files aside to be removed"));
        fs::remove_dir_all(&aside).during(|| format!("removing {}", aside.display()))
    }

    /// Removes what no record tells of, leftovers of pulls and removals that were cut short, and gives what that
    /// took.
    pub(crate) fn sweep(&self, is_known: impl Fn(Folder, &str) -> bool) -> Result<Usage> {
        let mut swept = Usage::default();
        for (folder, name) in [(Folder::Tmp, "tmp"), (Folder::Layers, "layers"), (Folder::Images, "images")] {
            let dir = self.root.join(name);
            for entry in read_dir(&dir)? {
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_known(folder, &format!("sha256:{name}")) {
                    continue;
                }
                let path = entry.path();
                let metadata =
                    fs::symlink_metadata(&path).during(|| format!("reading {}", path.display()))?;
                swept.add(&metadata);
                if metadata.is_dir() {
                    swept.add_all(usage_below(path.clone())?);
                }
                let removed =
                    if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.during(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(swept)
    }

    /// What layers, images and unfinished work take.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for folder in ["layers", "images", "tmp"] {
            usage.add_all(usage_below(self.root.join(folder))?);
        }
        Ok(usage)
    }
}

impl Usage {
    fn add(&mut self, metadata: &fs::Metadata) {
        self.bytes += metadata.blocks() * 512;
        self.inodes += 1;
    }

    fn add_all(&mut self, other: Usage) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What is below `dir`, itself not counted.
fn usage_below(dir: PathBuf) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        for entry in read_dir(&dir)? {
            // What is removed meanwhile takes nothing.
            let Ok(metadata) = entry.metadata() else { continue };
            usage.add(&metadata);
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(usage)
}

/// A directory of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Folder {
    Tmp,
    Layers,
    Images,
}

fn read_dir(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.during(|| format!("reading {}", dir.display()))?,
    };
    entries.collect::<io::Result<_>>().during(|| format!("reading {}", dir.display()))
}

/// A directory being filled; it vanishes unless it is published.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: Option<PathBuf>,
}

impl Scratch {
    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// A new file in it, to be read and written.
    pub(crate) fn create(&self, name: &str) -> Result<File> {
        let path = self.path().join(name);
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        made.during(|| format!("making {}", path.display()))
    }

    /// A new file in it with that content.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.create(name)?.write_all(content).during(|| format!("writing {name} into the image store"))
    }

    /// What the file `name` in it is.
    pub(crate) fn seal(&self, name: &str) -> Result<Sealed> {
        seal(&self.path().join(name))
    }

    /// Brings its content to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        for entry in read_dir(self.path())? {
            let path = entry.path();
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.during(|| format!("syncing {}", path.display()))?;
        }
        sync_dir(self.path())
    }

    /// Renames the directory, which must be synced, to `target`, replacing what may be left there.
    pub(crate) fn publish(mut self, files: &Files, target: &Path) -> Result<()> {
        files.discard(target)?;
        fs::rename(self.path(), target).during(|| format!("making {}", target.display()))?;
        self.path = None;
        target.parent().map_or(Ok(()), sync_dir)
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).during(|| format!("syncing {}", dir.display()))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            // The next start sweeps it.
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}
