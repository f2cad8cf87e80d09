//! An archive's bytes, with their budget.

use std::io::{self, BufReader, Read};

use super::error::ConvertError;

/// Bytes read ahead.
const BUFFER: usize = 256 << 10;

/// The bytes of an uncompressed archive, counted and cut off with an error at the budget.
pub(crate) struct ArchiveStream<'a> {
    input: BufReader<Box<dyn Read + 'a>>,
    read: u64,
    limit: u64,
}

impl<'a> ArchiveStream<'a> {
    /// At most `limit` bytes of `input`.
    pub(crate) fn new(input: impl Read + 'a, limit: u64) -> Self {
        Self { input: BufReader::with_capacity(BUFFER, Box::new(input)), read: 0, limit }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.read
    }

    /// Bytes into `buffer`; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ConvertError> {
        let n = loop {
            match self.input.read(buffer) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ConvertError::io("reading an archive", &error)),
            }
        };
        self.read += n as u64;
        if self.read > self.limit {
            return Err(ConvertError::TooLarge(format!("an archive of more than {} bytes", self.limit)));
        }
        Ok(n)
    }

    /// Fills `buffer`; false where the stream ends before its first byte.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, ConvertError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(ConvertError::malformed("the archive ends in the middle")),
                n => filled += n,
            }
        }
        Ok(true)
    }

    /// Reads what follows the archive's end.
    pub(crate) fn finish(mut self) -> Result<(), ConvertError> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest)? != 0 {}
        Ok(())
    }
}
