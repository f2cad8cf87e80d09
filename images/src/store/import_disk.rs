//! Disk images from files.

use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::disk::{CHUNK, Documents, Origin, configuration, key};
use super::import::given_name;
use super::pins::Pinned;
use super::{Image, ImageStore};
use crate::digest;
use crate::disk::{DiskFormat, sparse};
use crate::error::{ImageError, IoContext, Result};
use crate::layout::open_regular;

impl ImageStore {
    /// Takes the disk image in `file` (raw or qcow2, told apart by its first bytes) into the store and gives it
    /// the `name`, if there is one: a reference with or without a tag. What the file contains is copied; it may
    /// go afterwards.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] for a file that is not there, [`ImageError::InvalidReference`] for the name,
    /// [`ImageError::Unsupported`] for a format or feature that is not read, with what mends it,
    /// [`ImageError::Corrupt`], [`ImageError::TooLarge`], [`ImageError::Io`].
    pub async fn import_disk(&self, file: &Path, name: Option<&str>) -> Result<Image> {
        let names = name.map(given_name).transpose()?.iter().map(ToString::to_string).collect();
        let (scratch, limit) = (self.inner.files.scratch()?, self.inner.config.limits.layer_bytes);
        let (from, shown) = (file.to_owned(), file.display().to_string());
        let copied = spawn_blocking(move || {
            let data = scratch.create("data")?;
            copy_file(&from, &data, limit).map(|copied| (scratch, data, copied))
        });
        let copied =
            copied.await.map_err(io::Error::other).during(|| "the image store's own thread".into())?;
        let (scratch, data, (length, digest, format)) = copied?;
        let disk_key = key(format, &digest);
        let (id, config_bytes) = configuration(&disk_key);
        let pinned = Pinned::new(&self.inner, std::slice::from_ref(&disk_key));
        if self.inner.index.layer(&disk_key)?.is_none() {
            let made = self.inner.make_disk(scratch, data, length, format).await;
            let scratch = made.map_err(|error| error.of(&shown))?;
            self.inner.publish_disk(&pinned, scratch, digest).await?;
        }
        let documents = Documents { id, config_bytes, manifest_bytes: Vec::new(), names };
        self.inner.publish_disk_image(&pinned, documents).await
    }
}

/// Copies the regular file at `from` to `data`, without its zeroes: its bytes, digest and format.
fn copy_file(from: &Path, data: &File, limit: u64) -> Result<(u64, String, DiskFormat)> {
    let shown = from.display();
    let (file, length) = open_regular(from)?;
    if length > limit {
        return Err(ImageError::TooLarge(format!("{shown} has {length} bytes, the most is {limit}")));
    }
    let origin = Origin { file, offset: 0, length };
    let format = origin.probe().map_err(|error| error.of(&shown.to_string()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < origin.length {
        let n = origin.read(&mut buffer, done).map_err(|error| error.of(&shown.to_string()))?;
        hash.update(&buffer[..n]);
        sparse::write_at(data, &buffer[..n], done).during(|| "writing a disk image".into())?;
        done += n as u64;
    }
    data.set_len(done).during(|| "writing a disk image".into())?;
    Ok((done, digest::show(&hash.finalize()), format))
}
