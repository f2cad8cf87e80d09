//! Decompression, the digest of what comes out, and the budget on it.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::error::ConvertError;
use super::limits::Limits;

/// Counts what the decompressor takes in.
struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.count.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}

/// A layer's decompressed bytes: hashed, counted, and cut off with an error at the budget.
pub(crate) struct LayerReader<'a> {
    decoder: Box<dyn Read + 'a>,
    compressed: Arc<AtomicU64>,
    unpacked: u64,
    hash: Sha256,
    limits: &'a Limits,
}

impl<'a> LayerReader<'a> {
    /// Tells the compression by the first bytes; the diff-id decides whether that was right.
    pub(crate) fn new(input: impl Read + 'a, limits: &'a Limits) -> Result<Self, ConvertError> {
        let compressed = Arc::new(AtomicU64::new(0));
        let mut input = Counted { input, count: Arc::clone(&compressed) };
        let mut start = Vec::with_capacity(4);
        let taken = input.by_ref().take(4).read_to_end(&mut start);
        taken.map_err(|e| ConvertError::io("reading a layer", &e))?;
        let magic = start.clone();
        let input = BufReader::with_capacity(256 << 10, Cursor::new(start).chain(input));
        let decoder: Box<dyn Read + 'a> = match magic[..] {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                    .map_err(|e| ConvertError::io("starting zstd", &e))?;
                // 128 MiB: what every zstd reads by default, and no more.
                decoder.window_log_max(27).map_err(|e| ConvertError::io("starting zstd", &e))?;
                Box::new(decoder)
            }
            _ => Box::new(input),
        };
        Ok(Self { decoder, compressed, unpacked: 0, hash: Sha256::new(), limits })
    }

    /// Bytes into `buffer`; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ConvertError> {
        let n = loop {
            match self.decoder.read(buffer) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Without an errno it is the decompressor that complains, not the system.
                Err(error) if error.raw_os_error().is_none() => {
                    return Err(ConvertError::malformed(format!("the layer does not decompress: {error}")));
                }
                Err(error) => return Err(ConvertError::io("reading a layer", &error)),
            }
        };
        self.hash.update(&buffer[..n]);
        self.unpacked += n as u64;
        let ratio = self.compressed.load(Relaxed).saturating_mul(self.limits.ratio);
        let limit = self.limits.layer_bytes.min(ratio.max(self.limits.ratio_floor));
        if self.unpacked > limit {
            return Err(ConvertError::TooLarge(format!(
                "the layer unpacks to more than {limit} bytes (from {} compressed)",
                self.compressed.load(Relaxed)
            )));
        }
        Ok(n)
    }

    /// Fills `buffer`; false where the stream ends before its first byte.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, ConvertError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(ConvertError::malformed("the layer's archive ends in the middle")),
                n => filled += n,
            }
        }
        Ok(true)
    }

    /// Reads what follows the archive, which belongs to the diff-id, and gives "sha256:…".
    pub(crate) fn finish(mut self) -> Result<String, ConvertError> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest)? != 0 {}
        Ok(crate::digest::show(&self.hash.finalize()))
    }
}
