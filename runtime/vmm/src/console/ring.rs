//! A file that keeps the newest part of what is written to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Output is gathered to lines, or to pieces of this many bytes: a serial port writes byte by byte.
const BUFFER: usize = 1024;

/// A file of at most `limit` bytes. What would make it longer first drops its oldest half.
#[derive(Debug)]
pub struct RingFile {
    file: File,
    length: u64,
    limit: u64,
    buffer: Vec<u8>,
}

impl RingFile {
    /// Makes or empties the file at `path` (mode 0600); no link is followed in its last part.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        // Room for two buffers at least, so that the newer half is never empty.
        let limit = limit.max(2 * BUFFER as u64);
        Ok(Self { file, length: 0, limit, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Drops the older half; copies in pieces, the file may be large.
    fn halve(&mut self) -> io::Result<()> {
        let keep = self.limit / 2;
        let from = self.length.saturating_sub(keep);
        let mut piece = vec![0; 64 << 10];
        let mut done = 0;
        while from + done < self.length {
            let want = piece.len().min((self.length - from - done) as usize);
            let got = self.file.read_at(&mut piece[..want], from + done)?;
            if got == 0 {
                break;
            }
            self.file.write_all_at(&piece[..got], done)?;
            done += got as u64;
        }
        self.file.set_len(done)?;
        self.length = done;
        Ok(())
    }
}

impl Write for RingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER || bytes.contains(&b'\n') {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.buffer);
        for piece in bytes.chunks(BUFFER) {
            if self.length + piece.len() as u64 > self.limit {
                self.halve()?;
            }
            self.file.write_all_at(piece, self.length)?;
            self.length += piece.len() as u64;
        }
        self.buffer = bytes;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_everything_below_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let mut ring = RingFile::create(&path, 1 << 20).unwrap();
        for byte in b"one\ntwo\nrest" {
            ring.write_all(&[*byte]).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        ring.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\nrest");
    }

    #[test]
    fn drops_the_oldest_and_never_exceeds_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let mut ring = RingFile::create(&path, 8192).unwrap();
        for number in 0..10_000 {
            writeln!(ring, "line {number}").unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 8192);
        }
        ring.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 9999\n") && !text.contains("line 1\n") && text.len() >= 4096);
        let numbers: Vec<u32> = text.lines().skip(1).map(|l| l[5..].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    #[test]
    fn does_not_follow_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("console")).unwrap();
        RingFile::create(&dir.path().join("console"), 8192).unwrap_err();
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    }
}
