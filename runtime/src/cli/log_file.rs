//! A container's log that is read while it is written and rotated.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use crate::container::LogRecord;
use crate::error::{Error, Result};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// A line that is longer is no line of a log, and is handed on in parts.
const MAX_LINE: usize = 1 << 20;

/// The log at a path, from its beginning on.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// Of `file`.
    read: u64,
    /// The beginning of a line whose end is not written yet.
    pending: Vec<u8>,
}

impl LogFile {
    /// It may not be there yet.
    pub fn new(path: &Path) -> LogFile {
        LogFile { path: path.to_owned(), file: None, read: 0, pending: Vec::new() }
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// When it cannot be opened for another reason.
    pub fn exists(&mut self) -> Result<bool> {
        if self.file.is_none() {
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path);
            match opened {
                Ok(file) => (self.file, self.read) = (Some(file), 0),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("open the log", &self.path, e)),
            }
        }
        Ok(self.file.is_some())
    }

    /// Passes over all but the last lines.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn skip_to_last(&mut self, lines: usize) -> Result<()> {
        if !self.exists()? {
            return Ok(());
        }
        let fail = |e| Error::io("read", &self.path, e);
        let Some(file) = &mut self.file else { return Ok(()) };
        let start = start_of_last(file, lines).map_err(fail)?;
        self.read = file.seek(SeekFrom::Start(start)).map_err(fail)?;
        Ok(())
    }

    /// The next whole lines, as many as come at once; nothing when no more are written yet. A file that took the log's
    /// place is gone on with when this one has been read to its end.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self) -> Result<Vec<u8>> {
        while self.exists()? {
            let Some(file) = &mut self.file else { break };
            let fail = |e| Error::io("read", &self.path, e);
            // Asked first: what is written to this file was written before it was replaced.
            let now = file.metadata().map_err(fail)?;
            let replaced = std::fs::metadata(&self.path)
                .is_ok_and(|other| (other.dev(), other.ino()) != (now.dev(), now.ino()));
            if now.len() < self.read {
                // It was emptied in its place.
                self.read = file.seek(SeekFrom::Start(0)).map_err(fail)?;
            }
            let got = file.take(CHUNK as u64).read_to_end(&mut self.pending).map_err(fail)?;
            self.read += got as u64;
            let end = self.pending.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
            match end {
                Some(end) => return Ok(self.pending.drain(..end).collect()),
                None if self.pending.len() >= MAX_LINE => return Ok(std::mem::take(&mut self.pending)),
                None if got == 0 && replaced => {
                    self.file = None;
                    self.pending.clear();
                }
                None if got == 0 => break,
                None => {}
            }
        }
        Ok(Vec::new())
    }
}

/// Where the last lines of a container's output begin in its log, in which a line may be in parts.
fn start_of_last(file: &File, lines: usize) -> std::io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut starts, mut at, mut line) = (VecDeque::new(), 0, Vec::new());
    // Whether standard output's and standard error's last line goes on.
    let mut goes_on = [false; 2];
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            return Ok(starts.front().copied().unwrap_or(at));
        }
        let record = LogRecord::parse(&line);
        let (stderr, partial) = record.map_or((false, false), |record| (record.stderr, record.partial));
        let stream = &mut goes_on[usize::from(stderr)];
        if !std::mem::replace(stream, partial) {
            starts.push_back(at);
        }
        if starts.len() > lines {
            starts.pop_front();
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn it_is_followed_across_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::new(&path);
        assert!(log.read().unwrap().is_empty());
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(log.read().unwrap(), b"one\n");
        assert!(log.read().unwrap().is_empty());
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        writer.write_all(b"o\n").unwrap();
        fs::write(&path, "three\n").unwrap();
        assert_eq!([log.read().unwrap(), log.read().unwrap()].concat(), b"two\nthree\n");
        fs::write(&path, "4\n").unwrap();
        assert_eq!(log.read().unwrap(), b"4\n");
        assert!(log.read().unwrap().is_empty());
    }

    #[test]
    fn the_last_lines_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text = "T stdout F one\nT stdout P tw\nT stderr F oops\nT stdout F o\nT stdout F three\n";
        fs::write(&path, text).unwrap();
        let last = |lines| {
            let mut log = LogFile::new(&path);
            log.skip_to_last(lines).unwrap();
            String::from_utf8(log.read().unwrap()).unwrap()
        };
        assert_eq!((last(0).as_str(), last(1).as_str()), ("", "T stdout F three\n"));
        assert!(last(2).starts_with("T stderr F oops\n") && last(3).starts_with("T stdout P tw\n"));
        assert_eq!((last(4).as_str(), last(usize::MAX).as_str()), (text, text));
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(LogFile::new(&path).read().is_err());
    }
}
