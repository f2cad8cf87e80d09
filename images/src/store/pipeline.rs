//! A layer's way through the workers: blob → decompression → diff-id → conversion.
//!
//! Both digests are computed here, between the workers, so that neither can say of its bytes that they are another
//! layer's. The worker that converts sees only what was hashed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::BytesMut;
use oci_spec::image::Descriptor;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::Inner;
use super::files::Scratch;
use crate::convert::unpack::{MAGIC, Packing};
use crate::digest;
use crate::error::{ImageError, IoContext, Result};
use crate::progress::{Progress, Step};
use crate::source::Content;
use crate::worker::job::{Outcome, Task};
use crate::worker::{Worker, unexpected};

/// Bytes taken from a pipe at a time.
const CHUNK: usize = 64 << 10;

impl Inner {
    /// Streams a layer's blob through the workers into `scratch`. Gives its diff-id, "sha256:…" of the uncompressed
    /// archive.
    pub(super) async fn convert(
        &self,
        content: &mut Content<'_>,
        layer: &Descriptor,
        scratch: &Scratch,
        progress: &dyn Progress,
    ) -> Result<String> {
        let blob = layer.digest().to_string();
        let (data, tree) = (scratch.create("data")?, scratch.create("tree")?);
        let handles =
            [&data, &tree].map(|file| file.try_clone().during(|| "duplicating a descriptor".into()));
        let [for_data, for_tree] = handles;
        let mut feed = Feed { content, blob: &blob, total: layer.size(), done: 0, progress };
        let start = feed.start().await?;
        let mut parser = Hashed {
            worker: self.workers.start(Task::Layer, vec![for_data?, for_tree?])?,
            hash: Sha256::new(),
            passed: Arc::default(),
            limit: self.config.limits.layer_bytes,
        };
        let (fed, unpacked) = match Packing::of(&start) {
            Packing::None => (feed.all(start, &mut parser).await?, Ok(())),
            Packing::Gzip | Packing::Zstd => self.unpack(&mut feed, start, &mut parser).await?,
        };
        let Hashed { worker, hash, .. } = parser;
        let outcome = worker.finish().await;
        // Damage on the way explains whatever the workers say of it.
        if fed && !content.matches(&blob) {
            return Err(ImageError::Corrupt(format!("the content of {blob} does not match its digest")));
        }
        let of_layer = |error: ImageError| error.of(&format!("layer {blob}"));
        // What comes of half an archive says less than why it is only half.
        unpacked.map_err(of_layer)?;
        let verdict = match outcome.map_err(of_layer)? {
            Outcome::Layer(verdict) => verdict,
            other => return Err(unexpected(&other)),
        };
        let length = |file: &File| file.metadata().during(|| "looking at a layer's file".into());
        let whole = length(&data)?.len() == verdict.data_len && length(&tree)?.len() == verdict.tree_len;
        if !fed || !whole || verdict.data_len % 4096 != 0 {
            return Err(unexpected(&Outcome::Layer(verdict)));
        }
        Ok(digest::show(&hash.finalize()))
    }

    /// Passes what `feed` gives through a worker that decompresses it to `parser`. Whether all of it was taken,
    /// and what the worker says; a parser that takes no more has its own word to say.
    async fn unpack(
        &self,
        feed: &mut Feed<'_, '_>,
        start: BytesMut,
        parser: &mut Hashed,
    ) -> Result<(bool, Result<()>)> {
        let (output, input) = io::pipe().during(|| "making a pipe".into())?;
        let mut worker = self.workers.start(Task::Unpack, vec![File::from(OwnedFd::from(input))])?;
        let mut output = pipe::Receiver::from_owned_fd(output.into()).during(|| "watching a pipe".into())?;
        let passed = Arc::clone(&parser.passed);
        let unpacking = async move {
            let fed = feed.all(start, &mut worker).await?;
            Ok::<_, ImageError>((fed, worker.finish_while(|| passed.load(Relaxed)).await))
        };
        let passing = async move {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            loop {
                chunk.clear();
                chunk.reserve(CHUNK);
                let n = output.read_buf(&mut chunk).await.during(|| "reading a decompressed layer".into())?;
                if n == 0 {
                    return Ok(true);
                }
                if !parser.take(&chunk).await? {
                    return Ok(false);
                }
            }
        };
        let ((fed, outcome), taken) = tokio::try_join!(unpacking, passing)?;
        let outcome = match outcome {
            Ok(Outcome::Unpacked) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            // It could not get rid of its bytes, which is not its fault.
            Err(_) if !taken => Ok(()),
            Err(error) => Err(error),
        };
        Ok((fed, outcome))
    }
}

/// Takes a layer's bytes.
trait Sink {
    /// False once it takes no more.
    async fn take(&mut self, bytes: &[u8]) -> Result<bool>;
}

impl Sink for Worker {
    async fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        self.write(bytes).await
    }
}

/// The worker that converts, and the digest of what it was given.
struct Hashed {
    worker: Worker,
    hash: Sha256,
    /// How many bytes that were.
    passed: Arc<AtomicU64>,
    limit: u64,
}

impl Sink for Hashed {
    async fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        self.hash.update(bytes);
        let length = bytes.len() as u64;
        if self.passed.fetch_add(length, Relaxed) + length > self.limit {
            return Err(ImageError::TooLarge(format!("a layer unpacks to more than {} bytes", self.limit)));
        }
        self.worker.write(bytes).await
    }
}

/// A blob on its way in.
struct Feed<'a, 'b> {
    content: &'a mut Content<'b>,
    blob: &'a str,
    total: u64,
    done: u64,
    progress: &'a dyn Progress,
}

impl Feed<'_, '_> {
    /// The blob's beginning, long enough to tell how it is packed.
    async fn start(&mut self) -> Result<BytesMut> {
        let mut start = BytesMut::new();
        while start.len() < MAGIC
            && let Some(chunk) = self.content.chunk().await?
        {
            start.extend_from_slice(&chunk);
        }
        Ok(start)
    }

    /// Feeds `start` and the rest of the blob; false if not all was taken.
    async fn all(&mut self, start: BytesMut, to: &mut impl Sink) -> Result<bool> {
        let mut chunk = start.freeze();
        loop {
            if !chunk.is_empty() {
                if !to.take(&chunk).await? {
                    return Ok(false);
                }
                self.done += chunk.len() as u64;
                let (digest, done, total) = (self.blob, self.done, self.total);
                self.progress.step(Step::Layer { digest, done, total });
            }
            match self.content.chunk().await? {
                Some(next) => chunk = next,
                None => return Ok(true),
            }
        }
    }
}
