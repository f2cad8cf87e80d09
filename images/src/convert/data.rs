//! A layer's `data`: its files' contents, one behind the other.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};

use super::error::ConvertError;
use super::sparse::Part;
use super::tar::TarReader;

/// File contents begin at multiples of this, the page size of guests and EROFS's block.
const ALIGN: u64 = 4096;

/// Appends file contents, each padded to [`ALIGN`].
pub(super) struct DataWriter<'a> {
    out: BufWriter<&'a File>,
    length: u64,
    /// Most bytes that a sparse file may reach to: its holes cost the archive nothing.
    limit: u64,
}

impl<'a> DataWriter<'a> {
    /// Writes into `data`, which must be empty, at most `limit` bytes of sparse files and those before them.
    pub(super) fn new(data: &'a File, limit: u64) -> Self {
        Self { out: BufWriter::with_capacity(1 << 20, data), length: 0, limit }
    }

    /// Appends a file, whose contents of `size` bytes are next in `archive`, and gives its offset.
    pub(super) fn copy(&mut self, size: u64, archive: &mut TarReader<'_>) -> Result<u64, ConvertError> {
        if size == 0 {
            return Ok(0);
        }
        let offset = self.length;
        self.contents(size, archive)?;
        self.pad()?;
        Ok(offset)
    }

    /// The same for a file of which the archive holds only `parts`: the rest become holes.
    pub(super) fn copy_sparse(
        &mut self,
        size: u64,
        parts: &[Part],
        archive: &mut TarReader<'_>,
    ) -> Result<u64, ConvertError> {
        if size == 0 {
            return Ok(0);
        }
        let offset = self.length;
        let end = offset.checked_add(size).filter(|end| *end <= self.limit);
        let end = end.ok_or_else(|| {
            ConvertError::TooLarge(format!(
                "with a sparse file of {size} bytes a layer is over {}",
                self.limit
            ))
        })?;
        for part in parts {
            self.hole(offset + part.offset)?;
            self.contents(part.length, archive)?;
        }
        // The file's last byte is written, so that the data is as long as it should be.
        if self.length < end {
            self.hole(end - 1)?;
            self.write(&[0])?;
        }
        self.pad()?;
        Ok(offset)
    }

    /// Takes the next `size` bytes of the archive's contents.
    fn contents(&mut self, size: u64, archive: &mut TarReader<'_>) -> Result<(), ConvertError> {
        let mut buffer = [0; 32 << 10];
        let mut left = size;
        while left != 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = archive.contents(&mut buffer[..want])?;
            if n == 0 {
                return Err(ConvertError::malformed("a file's contents are shorter than its size"));
            }
            self.write(&buffer[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    fn hole(&mut self, end: u64) -> Result<(), ConvertError> {
        if end > self.length {
            self.out
                .seek(SeekFrom::Start(end))
                .map_err(|e| ConvertError::io("writing a layer's data", &e))?;
            self.length = end;
        }
        Ok(())
    }

    fn pad(&mut self) -> Result<(), ConvertError> {
        let padding = (ALIGN - self.length % ALIGN) % ALIGN;
        self.write(&[0; ALIGN as usize][..padding as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.out.write_all(bytes).map_err(|e| ConvertError::io("writing a layer's data", &e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Gives the bytes written.
    pub(super) fn finish(mut self) -> Result<u64, ConvertError> {
        self.out.flush().map_err(|e| ConvertError::io("writing a layer's data", &e))?;
        Ok(self.length)
    }
}
