//! Where an image's content comes from.

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use crate::error::{IoContext, Result};
use crate::layout::Layout;
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

    /// A blob as a stream of at most `size` bytes, not verified.
    pub(crate) fn blob(&self, digest: &str, size: u64) -> Result<Content<'_>> {
        Ok(match self {
            Self::Registry(repository) => Content::Remote(Box::new(repository.blob(digest, size))),
            Self::Layout(layout) => Content::Local(tokio::fs::File::from_std(layout.blob(digest, size)?)),
        })
    }
}

/// A blob being read.
pub(crate) enum Content<'a> {
    Remote(Box<Blob<'a>>),
    Local(tokio::fs::File),
}

impl Content<'_> {
    /// The next bytes, or none at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Remote(blob) => blob.chunk().await,
            Self::Local(file) => {
                let mut buffer = Vec::with_capacity(CHUNK);
                let n = file.take(CHUNK as u64).read_to_end(&mut buffer).await;
                let n = n.during(|| "reading a blob of the layout".into())?;
                Ok((n != 0).then(|| buffer.into()))
            }
        }
    }
}
