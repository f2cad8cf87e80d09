//! Where an image's content comes from.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::digest;
use crate::error::{IoContext, Result};
use crate::layout::{Layout, Slice};
use crate::reference::Version;
use crate::registry::{Blob, Repository};

/// Bytes read from a local file at a time.
const CHUNK: usize = 64 << 10;

/// A registry's repository or a local layout.
pub(crate) enum Source {
    Registry(Repository),
    Layout(Layout),
}

impl Source {
    /// Content of one name and digest is the same work only if it comes from one place: nobody's slow
    /// registry delays another's.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Registry(repository) => repository.registry().to_owned(),
            Self::Layout(layout) => layout.name(),
        }
    }

    /// The manifest or index of that digest, verified.
    pub(crate) async fn manifest(&self, digest: &str) -> Result<Bytes> {
        match self {
            Self::Registry(repository) => repository.manifest(&Version::Digest(digest.to_owned())).await,
            Self::Layout(layout) => layout.document(digest),
        }
    }

    /// A small blob, whole and verified.
    pub(crate) async fn document(&self, digest: &str) -> Result<Bytes> {
        match self {
            Self::Registry(repository) => repository.document(digest).await,
            Self::Layout(layout) => layout.document(digest),
        }
    }

    /// A blob as a stream of at most `size` bytes, not verified. Where it can be had at several places those
    /// before the place `from` are left out.
    pub(crate) fn blob(&self, digest: &str, size: u64, from: usize) -> Result<Content<'_>> {
        let stream = match self {
            Self::Registry(repository) => Stream::Remote(Box::new(repository.blob(digest, size, from))),
            Self::Layout(layout) => {
                let Slice { file, length } = layout.blob(digest, size)?;
                Stream::Local(tokio::fs::File::from_std(file).take(length))
            }
        };
        Ok(Content { stream, hash: Sha256::new() })
    }
}

/// A blob being read.
pub(crate) struct Content<'a> {
    stream: Stream<'a>,
    hash: Sha256,
}

enum Stream<'a> {
    Remote(Box<Blob<'a>>),
    Local(tokio::io::Take<tokio::fs::File>),
}

impl Content<'_> {
    /// The next bytes, or none at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = match &mut self.stream {
            Stream::Remote(blob) => blob.chunk().await?,
            Stream::Local(file) => {
                let mut buffer = Vec::with_capacity(CHUNK);
                let n = (&mut *file).take(CHUNK as u64).read_to_end(&mut buffer).await;
                let n = n.during(|| "reading a blob of the layout".into())?;
                (n != 0).then(|| buffer.into())
            }
        };
        if let Some(chunk) = &chunk {
            self.hash.update(chunk);
        }
        Ok(chunk)
    }

    /// Whether what was read so far has that digest.
    pub(crate) fn matches(&self, digest: &str) -> bool {
        digest::show(&self.hash.clone().finalize()) == digest
    }

    /// The place to try if what was read is of no use.
    pub(crate) fn next_place(&self) -> Option<usize> {
        match &self.stream {
            Stream::Remote(blob) => blob.next_endpoint(),
            Stream::Local(_) => None,
        }
    }
}
