//! Decompression, and the budget on what comes out.

use std::io::{self, BufReader, Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flate2::bufread::MultiGzDecoder;

use super::error::ConvertError;
use super::limits::Limits;

/// Bytes by which a packing is told.
pub(crate) const MAGIC: usize = 4;

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    /// Any number of members (RFC 1952), as estargz has them.
    Gzip,
    /// Any number of frames, skippable ones among them (RFC 8878), as zstd:chunked has them.
    Zstd,
}

impl Packing {
    /// Tells it by a layer's first [`MAGIC`] bytes; the diff-id decides whether that was right.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

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

/// Decompresses the layer that `input` gives (gzip, zstd or plain) to `output`.
///
/// # Errors
/// [`ConvertError`] for bytes that do not decompress, for more of them than `limits` allow, and for I/O.
pub fn unpack(input: impl Read, mut output: impl Write, limits: &Limits) -> Result<(), ConvertError> {
    let compressed = Arc::new(AtomicU64::new(0));
    let mut decoder = decoder(Counted { input, count: Arc::clone(&compressed) })?;
    let mut buffer = vec![0; 64 << 10];
    let mut unpacked = 0_u64;
    loop {
        let n = match decoder.read(&mut buffer) {
            Ok(0) => return output.flush().map_err(|e| ConvertError::io("handing on a layer", &e)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Without an errno it is the decompressor that complains, not the system.
            Err(error) if error.raw_os_error().is_none() => {
                return Err(ConvertError::malformed(format!("the layer does not decompress: {error}")));
            }
            Err(error) => return Err(ConvertError::io("reading a layer", &error)),
        };
        unpacked += n as u64;
        let ratio = compressed.load(Relaxed).saturating_mul(limits.ratio);
        let limit = limits.layer_bytes.min(ratio.max(limits.ratio_floor));
        if unpacked > limit {
            return Err(ConvertError::TooLarge(format!(
                "the layer unpacks to more than {limit} bytes (from {} compressed)",
                compressed.load(Relaxed)
            )));
        }
        output.write_all(&buffer[..n]).map_err(|e| ConvertError::io("handing on a layer", &e))?;
    }
}

fn decoder<'a>(mut input: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ConvertError> {
    let mut start = Vec::with_capacity(MAGIC);
    let taken = input.by_ref().take(MAGIC as u64).read_to_end(&mut start);
    taken.map_err(|e| ConvertError::io("reading a layer", &e))?;
    let packing = Packing::of(&start);
    let input = BufReader::with_capacity(256 << 10, Cursor::new(start).chain(input));
    Ok(match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(input)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                .map_err(|e| ConvertError::io("starting zstd", &e))?;
            // 128 MiB: what every zstd reads by default, and no more.
            decoder.window_log_max(27).map_err(|e| ConvertError::io("starting zstd", &e))?;
            Box::new(decoder)
        }
        Packing::None => Box::new(input),
    })
}
