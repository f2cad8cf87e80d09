//! Disk images: from an artifact's only layer, from the only file of a containerDisk, or from a file.
//!
//! The disk is kept like a layer, as a sparse raw file with an empty tree, and shared like one: by the digest of
//! the image that it was made from, and the format as which that was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageConfiguration};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::files::Scratch;
use super::pins::Pinned;
use super::{Image, Inner};
use crate::digest;
use crate::disk::{DiskFormat, HEAD, SECTOR, sparse};
use crate::error::{ImageError, IoContext, Result};
use crate::image::DiskFile;
use crate::progress::{Progress, Step};
use crate::source::Source;
use crate::worker::job::{Outcome, Task};
use crate::worker::unexpected;

/// Bytes copied at a time.
pub(super) const CHUNK: usize = 1 << 20;
/// What a disk's container runs where nobody says anything else.
const INIT: &str = "/sbin/init";

/// What an image is recorded with.
pub(super) struct Documents {
    pub(super) id: String,
    pub(super) config_bytes: Vec<u8>,
    /// Empty for an image that has none.
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) names: Vec<String>,
}

/// The image of a disk as it came: a piece of a file.
pub(super) struct Origin {
    pub(super) file: File,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The key of the disk in an image of that digest. No layer can have it: a diff-id is the digest of a layer's
/// bytes, and these are none.
pub(super) fn key(format: DiskFormat, digest: &str) -> String {
    digest::of(format!("husk {} disk {digest}", format.name()).as_bytes())
}

/// `config` with a command, if it has none.
pub(super) fn with_init(mut config: ImageConfiguration) -> ImageConfiguration {
    let mut run = config.config().clone().unwrap_or_default();
    if run.entrypoint().as_ref().is_none_or(Vec::is_empty) && run.cmd().as_ref().is_none_or(Vec::is_empty) {
        run.set_cmd(Some(vec![INIT.into()]));
    }
    config.set_config(Some(run));
    config
}

/// The configuration of a disk that comes without one of its own, and its digest.
pub(super) fn configuration(key: &str) -> (String, Vec<u8>) {
    let rootfs = json!({"type": "layers", "diff_ids": [key]});
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs});
    let bytes = config.to_string().into_bytes();
    (digest::of(&bytes), bytes)
}

impl Inner {
    /// Fetches the disk that is the only layer of an artifact.
    pub(super) async fn fetch_disk(
        self: &Arc<Self>,
        source: &Source,
        manifest_bytes: &[u8],
        format: DiskFormat,
        blob: &Descriptor,
        names: Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let digest = blob.digest().to_string();
        let disk_key = key(format, &digest);
        let (id, config_bytes) = configuration(&disk_key);
        let lock = self.locks.get(&format!("{} {id}", source.name()));
        let _fetching = lock.lock().await;
        if let Some(image) = self.name_image(&id, &names)? {
            return Ok(image);
        }
        let pinned = Pinned::new(self, std::slice::from_ref(&disk_key));
        if self.index.layer(&disk_key)?.is_none() {
            progress.step(Step::Resolved { id: &id, layers: 1, bytes: blob.size() });
            let (scratch, data) = self.receive(source, blob, progress).await?;
            let made = self.make_disk(scratch, data, blob.size(), format).await;
            let scratch = made.map_err(|error| error.of(&format!("the disk {digest}")))?;
            self.publish_disk(&pinned, scratch, digest).await?;
        }
        let manifest_bytes = manifest_bytes.to_vec();
        self.publish_disk_image(&pinned, Documents { id, config_bytes, manifest_bytes, names }).await
    }

    /// Makes the image that `documents` describe one of the disk that its layers, which are there and `pinned`,
    /// hold. They are of no more use then.
    pub(super) async fn adopt_contained(
        self: &Arc<Self>,
        found: &DiskFile,
        pinned: &Arc<Pinned>,
        documents: Documents,
    ) -> Result<Image> {
        let DiskFile { layer, offset, size } = *found;
        let diff_id = pinned.diff_ids().get(layer);
        let record = diff_id.map_or(Ok(None), |diff_id| self.index.layer(diff_id))?;
        let (Some(diff_id), Some(record)) = (diff_id, record) else {
            return Err(unexpected(&Outcome::Image { meta_len: 0, disk: Some(*found) }));
        };
        if offset.checked_add(size).is_none_or(|end| end > record.data.length) {
            return Err(unexpected(&Outcome::Image { meta_len: 0, disk: Some(*found) }));
        }
        let path = self.files.layer(diff_id)?.join("data");
        let file = File::open(&path).during(|| format!("opening {}", path.display()))?;
        let origin = Origin { file, offset, length: size };
        let format = origin.probe()?;
        let place = format!("{diff_id} {offset} {size}");
        let disk_key = key(format, &place);
        let disk_pinned = Pinned::new(self, std::slice::from_ref(&disk_key));
        if self.index.layer(&disk_key)?.is_none() {
            let made = match format {
                DiskFormat::Raw => self.copy(origin).await,
                DiskFormat::Qcow2 => self.convert_qcow2(&origin).await,
            };
            let scratch = made.map_err(|error| error.of(&format!("the disk in layer {diff_id}")))?;
            self.publish_disk(&disk_pinned, scratch, place).await?;
        }
        self.publish_disk_image(&disk_pinned, documents).await
    }

    /// Reads the blob of a disk, verified, into the file `data` of a new directory.
    async fn receive(
        &self,
        source: &Source,
        blob: &Descriptor,
        progress: &dyn Progress,
    ) -> Result<(Scratch, File)> {
        let (digest, total) = (blob.digest().to_string(), blob.size());
        if total > self.config.limits.layer_bytes {
            return Err(ImageError::TooLarge(format!("a disk image of {total} bytes")));
        }
        let mut place = 0;
        loop {
            let scratch = self.files.scratch()?;
            let data = scratch.create("data")?;
            let mut content = source.blob(&digest, total, place)?;
            let mut done = 0;
            while let Some(chunk) = content.chunk().await? {
                sparse::write_at(&data, &chunk, done).during(|| "writing a disk image".into())?;
                done += chunk.len() as u64;
                progress.step(Step::Layer { digest: &digest, done, total });
            }
            if done == total && content.matches(&digest) {
                data.set_len(total).during(|| "writing a disk image".into())?;
                return Ok((scratch, data));
            }
            match content.next_place() {
                Some(next) => place = next,
                None => {
                    let what = format!("the content of {digest} does not match its digest");
                    return Err(ImageError::Corrupt(what));
                }
            }
        }
    }

    /// Makes the image of `length` bytes in `data` of `scratch` a disk, and gives the directory with it, where its
    /// file is again called so.
    pub(super) async fn make_disk(
        &self,
        scratch: Scratch,
        data: File,
        length: u64,
        format: DiskFormat,
    ) -> Result<Scratch> {
        match format {
            DiskFormat::Raw => finish_raw(&data, length).map(|()| scratch),
            // The scratch directory goes when the disk is read from it.
            DiskFormat::Qcow2 => self.convert_qcow2(&Origin { file: data, offset: 0, length }).await,
        }
    }

    async fn convert_qcow2(&self, origin: &Origin) -> Result<Scratch> {
        let scratch = self.files.scratch()?;
        let data = scratch.create("data")?;
        let duplicate = |file: &File| file.try_clone().during(|| "duplicating a descriptor".into());
        let task = Task::Qcow2 { offset: origin.offset, length: origin.length };
        let worker = self.workers.start(task, vec![duplicate(&data)?, duplicate(&origin.file)?])?;
        let bytes = match worker.finish().await? {
            Outcome::Disk { bytes } => bytes,
            other => return Err(unexpected(&other)),
        };
        let written = data.metadata().during(|| "looking at a disk".into())?.len();
        let fits = written <= bytes && bytes <= self.config.limits.disk_bytes.saturating_add(SECTOR - 1);
        if !fits || bytes == 0 || bytes % SECTOR != 0 {
            return Err(unexpected(&Outcome::Disk { bytes }));
        }
        data.set_len(bytes).during(|| "sizing a disk".into())?;
        Ok(scratch)
    }

    /// Copies a raw disk out of a layer.
    async fn copy(&self, origin: Origin) -> Result<Scratch> {
        let scratch = self.files.scratch()?;
        let copied = spawn_blocking(move || {
            let data = scratch.create("data")?;
            let mut buffer = vec![0; CHUNK];
            let mut done = 0;
            while done < origin.length {
                let n = origin.read(&mut buffer, done)?;
                sparse::write_at(&data, &buffer[..n], done).during(|| "writing a disk".into())?;
                done += n as u64;
            }
            finish_raw(&data, origin.length).map(|()| scratch)
        });
        copied.await.map_err(io::Error::other).during(|| "the image store's own thread".into())?
    }

    pub(super) async fn publish_disk(
        self: &Arc<Self>,
        pinned: &Arc<Pinned>,
        scratch: Scratch,
        blob: String,
    ) -> Result<()> {
        let [key] = pinned.diff_ids() else { return Ok(()) };
        scratch.create("tree")?;
        let (store, key) = (Arc::clone(self), key.clone());
        pinned.hold_while(move || store.publish_layer(scratch, &key, &blob)).await
    }

    pub(super) async fn publish_disk_image(
        self: &Arc<Self>,
        pinned: &Arc<Pinned>,
        documents: Documents,
    ) -> Result<Image> {
        let Documents { id, config_bytes, manifest_bytes, names } = documents;
        let scratch = self.files.scratch()?;
        scratch.write("config", &config_bytes)?;
        scratch.write("manifest", &manifest_bytes)?;
        scratch.create("meta")?;
        let (store, image, layers) = (Arc::clone(self), id.clone(), pinned.diff_ids().to_vec());
        pinned.hold_while(move || store.publish_image(scratch, &image, layers, &names)).await?;
        self.view_by_id(&id)?.ok_or(ImageError::NotFound(id))
    }
}

impl Origin {
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let left = usize::try_from(self.length - at.min(self.length)).unwrap_or(usize::MAX);
        let n = buffer.len().min(left);
        let read = self.file.read_exact_at(&mut buffer[..n], self.offset + at);
        read.during(|| "reading a disk image".into()).map(|()| n)
    }

    pub(super) fn probe(&self) -> Result<DiskFormat> {
        let mut head = [0; HEAD];
        let n = self.read(&mut head, 0)?;
        DiskFormat::probe(&head[..n])
    }
}

/// Gives a raw disk of `length` bytes its last sector whole.
fn finish_raw(data: &File, length: u64) -> Result<()> {
    if length == 0 {
        return Err(ImageError::Corrupt("a disk image of 0 bytes".into()));
    }
    data.set_len(length.next_multiple_of(SECTOR)).during(|| "sizing a disk".into())
}
