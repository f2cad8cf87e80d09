//! A local OCI image layout (OCI image specification, "Image Layout").

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageIndex};

use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::manifest::DOCUMENT_MAX;
use crate::reference::Reference;

/// The annotations that name a manifest: a tag by the OCI, a whole reference by containerd.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Names listed in an error.
const SHOWN_MAX: usize = 20;

/// A layout's directory.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Opens `dir`, which must say that it is a layout.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let layout = Self { dir: dir.to_owned() };
        let marker: serde_json::Value = serde_json::from_slice(&layout.read("oci-layout")?)
            .map_err(|e| ImageError::Corrupt(format!("{}/oci-layout: {e}", dir.display())))?;
        match marker.get("imageLayoutVersion").and_then(|version| version.as_str()) {
            Some(version) if version.starts_with("1.") => Ok(layout),
            version => Err(ImageError::Unsupported(format!("{}: layout version {version:?}", dir.display()))),
        }
    }

    /// The directory, for messages.
    pub(crate) fn name(&self) -> String {
        self.dir.display().to_string()
    }

    /// The manifest or index called `tag`, or the only one, and the complete reference that it is annotated
    /// with, if any.
    pub(crate) fn select(&self, tag: Option<&str>) -> Result<(Descriptor, Option<Reference>)> {
        let index: ImageIndex = serde_json::from_slice(&self.read("index.json")?)
            .map_err(|e| ImageError::Corrupt(format!("{}/index.json: {e}", self.dir.display())))?;
        let entries = index.manifests();
        let found = match (tag, &entries[..]) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(tag), _) => entries.iter().find(|entry| is_called(entry, tag)),
        };
        let Some(found) = found else {
            let names: Vec<String> = entries
                .iter()
                .take(SHOWN_MAX)
                .map(|entry| format!("{:?}", digest::clip(annotation(entry, REF_NAME).unwrap_or_default())))
                .collect();
            let what = match tag {
                Some(tag) => format!("tag {tag:?} in {} (it has: {})", self.name(), names.join(", ")),
                None => {
                    format!("a single image in {}: name one of {}; it was", self.name(), names.join(", "))
                }
            };
            return Err(ImageError::NotFound(what));
        };
        let named = [IMAGE_NAME, REF_NAME].into_iter().filter_map(|key| annotation(found, key));
        // A bare tag names no repository.
        let mut whole = named.filter(|name| name.contains([':', '/']));
        Ok((found.clone(), whole.find_map(|name| Reference::parse(name).ok())))
    }

    /// A whole blob of at most [`DOCUMENT_MAX`] bytes, verified.
    pub(crate) fn document(&self, digest: &str) -> Result<Bytes> {
        let bytes = self.read(&format!("blobs/sha256/{}", digest::hex(digest)?))?;
        digest::verify(&bytes, digest)?;
        Ok(bytes.into())
    }

    /// A blob's file, of `size` bytes.
    pub(crate) fn blob(&self, digest: &str, size: u64) -> Result<fs::File> {
        let (file, length) = self.file(&format!("blobs/sha256/{}", digest::hex(digest)?))?;
        if length != size {
            return Err(ImageError::Corrupt(format!(
                "the blob {digest} has {length} bytes instead of {size}"
            )));
        }
        Ok(file)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let (file, length) = self.file(name)?;
        if length > DOCUMENT_MAX {
            return Err(ImageError::TooLarge(format!(
                "{}/{name} is over {DOCUMENT_MAX} bytes",
                self.dir.display()
            )));
        }
        let mut bytes = Vec::new();
        let read = file.take(DOCUMENT_MAX).read_to_end(&mut bytes);
        read.during(|| format!("reading {}/{name}", self.dir.display()))?;
        Ok(bytes)
    }

    fn file(&self, name: &str) -> Result<(fs::File, u64)> {
        let path = self.dir.join(name);
        // A pipe in the blob's place must not keep the opener waiting.
        let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
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
}

fn annotation<'a>(entry: &'a Descriptor, key: &str) -> Option<&'a str> {
    entry.annotations().as_ref()?.get(key).map(String::as_str)
}

fn is_called(entry: &Descriptor, tag: &str) -> bool {
    let names = [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| annotation(entry, key));
    let wanted = Reference::parse(tag).ok();
    names.into_iter().any(|name| name == tag || (wanted.is_some() && Reference::parse(name).ok() == wanted))
}
