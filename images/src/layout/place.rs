//! Where a layout's files are: in a directory, or in an archive of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use crate::error::{ImageError, IoContext, Result};
use crate::manifest::DOCUMENT_MAX;

/// A directory or a tar archive.
#[derive(Debug)]
pub(super) enum Place {
    Dir(PathBuf),
    Archive(Archive),
}

/// A file, or the part of one that a member of an archive is.
#[derive(Debug)]
pub(crate) struct Slice {
    /// At the slice's first byte.
    pub(crate) file: File,
    pub(crate) length: u64,
}

impl Place {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Dir(path.to_owned()));
        }
        Archive::read(path).map(Self::Archive)
    }

    /// Its path, for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Dir(path) => path.display().to_string(),
            Self::Archive(archive) => archive.path().display().to_string(),
        }
    }

    /// The file `name`, a path without "..".
    pub(super) fn file(&self, name: &str) -> Result<Slice> {
        match self {
            Self::Dir(dir) => {
                let (file, length) = open_regular(&dir.join(name))?;
                Ok(Slice { file, length })
            }
            Self::Archive(archive) => {
                let (offset, length) = archive.find(name).ok_or_else(|| self.missing(name))?;
                let (mut file, _) = open_regular(archive.path())?;
                file.seek(SeekFrom::Start(offset)).during(|| format!("reading {}", self.name()))?;
                Ok(Slice { file, length })
            }
        }
    }

    fn missing(&self, name: &str) -> ImageError {
        ImageError::NotFound(format!("{name} in {}", self.name()))
    }

    /// The whole content of the file `name`, at most [`DOCUMENT_MAX`] bytes.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let Slice { file, length } = self.file(name)?;
        if length > DOCUMENT_MAX {
            return Err(ImageError::TooLarge(format!("{}/{name} is over {DOCUMENT_MAX} bytes", self.name())));
        }
        let mut bytes = Vec::new();
        let read = file.take(length).read_to_end(&mut bytes);
        read.during(|| format!("reading {}/{name}", self.name()))?;
        Ok(bytes)
    }
}

/// Opens a regular file, and tells its bytes.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    // A pipe in the file's place must not keep the opener waiting.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::NotFound(path.display().to_string()));
        }
        opened => opened.during(|| format!("opening {}", path.display()))?,
    };
    let metadata = file.metadata().during(|| format!("reading {}", path.display()))?;
    if !metadata.is_file() {
        return Err(ImageError::Corrupt(format!("{} is no regular file", path.display())));
    }
    Ok((file, metadata.len()))
}
