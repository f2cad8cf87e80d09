//! A guest's console that is read while it is written: a file that drops its older half whenever it is full.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// How much of what was read is kept, to find again how far that was.
const SEEN: usize = 4 << 10;
/// How much of the file's end is looked through for it.
const WINDOW: u64 = 4 << 20;

/// The file, and how far it was read.
pub struct Ring {
    file: File,
    at: u64,
    /// The end of what was read.
    seen: Vec<u8>,
}

/// What comes next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Empty: nothing more is written yet.
    pub bytes: Vec<u8>,
    /// Whether something before it was dropped unread.
    pub lost: bool,
}

impl Ring {
    /// Opens it; no link is followed.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Ring> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        Ok(Ring { file, at: 0, seen: Vec::new() })
    }

    /// Whether it was removed, which happens after its VM has ended.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_removed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    /// What was written since.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> io::Result<Piece> {
        let length = self.file.metadata()?.len();
        let lost = !self.is_in_place(length)? && !self.find_place(length)?;
        let bytes = self.read_at(self.at, CHUNK)?;
        self.at += bytes.len() as u64;
        self.seen.extend_from_slice(&bytes);
        self.seen.drain(..self.seen.len().saturating_sub(SEEN));
        Ok(Piece { bytes, lost })
    }

    /// Whether what was read last still stands before the place.
    fn is_in_place(&self, length: u64) -> io::Result<bool> {
        let begin = self.at.checked_sub(self.seen.len() as u64);
        let Some(begin) = begin.filter(|_| self.at <= length) else { return Ok(false) };
        Ok(self.read_at(begin, self.seen.len())? == self.seen)
    }

    /// Goes to the end of what was read last; where that is not there any more, to the beginning of what is.
    fn find_place(&mut self, length: u64) -> io::Result<bool> {
        let begin = length.saturating_sub(WINDOW);
        let content = self.read_at(begin, WINDOW as usize)?;
        let found = content.windows(self.seen.len().max(1)).rposition(|window| window == self.seen);
        self.at = begin + found.map_or(0, |found| (found + self.seen.len()) as u64);
        if found.is_none() {
            self.seen.clear();
        }
        Ok(found.is_some())
    }

    fn read_at(&self, from: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut got = 0;
        while got < most {
            match self.file.read_at(&mut bytes[got..], from + got as u64)? {
                0 => break,
                more => got += more,
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn all(ring: &mut Ring) -> Piece {
        let mut whole = Piece::default();
        loop {
            let piece = ring.read().unwrap();
            whole.lost |= piece.lost;
            if piece.bytes.is_empty() {
                return whole;
            }
            whole.bytes.extend(piece.bytes);
        }
    }

    fn lines(numbers: std::ops::Range<u32>) -> String {
        numbers.map(|number| format!("line {number}\n")).collect()
    }

    #[test]
    fn it_is_followed_when_its_older_half_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        fs::write(&path, lines(0..20_000)).unwrap();
        let mut ring = Ring::open(&path).unwrap();
        assert_eq!(all(&mut ring).bytes, lines(0..20_000).as_bytes());
        assert_eq!(all(&mut ring), Piece::default());
        fs::write(&path, lines(10_000..20_010)).unwrap();
        assert_eq!(all(&mut ring), Piece { bytes: lines(20_000..20_010).into(), lost: false });
        // It has grown beyond where it was before.
        fs::write(&path, lines(20_005..60_000)).unwrap();
        let piece = all(&mut ring);
        assert!(piece.lost && piece.bytes == lines(20_005..60_000).as_bytes());
        assert!(!ring.is_removed().unwrap());
        fs::remove_file(&path).unwrap();
        assert!(ring.is_removed().unwrap() && all(&mut ring) == Piece::default());
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Ring::open(&path).is_err());
    }
}
