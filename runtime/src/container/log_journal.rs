//! How far a container's log has come, so that a daemon that is killed between any two system calls goes on
//! without a missing and without a doubled line.
//!
//! Two slots in one file are written in turn. A slot says what is about to be appended (the log's inode, its
//! length before, the number of bytes) and the state after that: the offset in the process's output and the
//! unfinished lines. After a restart the newest slot whose append is found complete counts; an append that is
//! not is cut off, and the slot before it counts.
//!
//! The file lies among the pod's runtime files: like the pod it outlives the daemon, but not the host.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use prost::Message;

use super::log::{LogEncoder, MAX_LINE};

/// Bytes of a slot: two unfinished lines, and room for the numbers.
const SLOT: u64 = 2 * MAX_LINE as u64 + 512;

/// Length and checksum before a slot's message.
const HEADER: usize = 8;

/// One append and what holds after it.
#[derive(Clone, PartialEq, prost::Message)]
struct Slot {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    /// The log's; 0: no log is kept.
    #[prost(uint64, tag = "2")]
    inode: u64,
    /// The log's length before the append, bytes.
    #[prost(uint64, tag = "3")]
    before: u64,
    /// Bytes appended.
    #[prost(uint64, tag = "4")]
    appended: u64,
    /// Bytes of the process's output that are in the log or in the unfinished lines.
    #[prost(uint64, tag = "5")]
    offset: u64,
    #[prost(bytes = "vec", tag = "6")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    stderr: Vec<u8>,
}

/// A container's journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    sequence: u64,
}

/// Where writing goes on.
#[derive(Debug, Default)]
pub struct Resume {
    /// Offset in the process's output.
    pub offset: u64,
    /// With the unfinished lines.
    pub encoder: LogEncoder,
}

impl Journal {
    /// Opens or makes the journal at `path` and brings `log` to a state that it describes.
    pub fn open(path: &Path, log: Option<&File>) -> std::io::Result<(Journal, Resume)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut slots: Vec<Slot> = [0, 1].into_iter().filter_map(|index| read_slot(&file, index)).collect();
        slots.sort_by_key(|slot| slot.sequence);
        let Some(newest) = slots.pop() else {
            return Ok((Journal { file, sequence: 0 }, Resume::default()));
        };
        let sequence = newest.sequence;
        let kept = if is_complete(&newest, log)? { Some(newest) } else { slots.pop() };
        let resume = kept.map(|slot| Resume {
            offset: slot.offset,
            encoder: LogEncoder::with_unfinished(slot.stdout, slot.stderr),
        });
        Ok((Journal { file, sequence }, resume.unwrap_or_default()))
    }

    /// Writes down that `appended` bytes are about to be appended to `log`, and what holds afterwards.
    pub fn intend(
        &mut self,
        log: Option<&File>,
        appended: usize,
        offset: u64,
        encoder: &LogEncoder,
    ) -> std::io::Result<()> {
        let (inode, before) = match log {
            Some(log) => log.metadata().map(|meta| (meta.ino(), meta.len()))?,
            None => (0, 0),
        };
        let sequence = self.sequence + 1;
        let (stdout, stderr) = encoder.unfinished();
        let slot = Slot {
            sequence,
            inode,
            before,
            appended: appended as u64,
            offset,
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
        };
        let message = slot.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER + message.len());
        bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&message).to_le_bytes());
        bytes.extend_from_slice(&message);
        self.file.write_all_at(&bytes, (sequence % 2) * SLOT)?;
        self.sequence = sequence;
        Ok(())
    }
}

fn read_slot(file: &File, index: u64) -> Option<Slot> {
    let mut bytes = vec![0; SLOT as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], index * SLOT + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(_) => return None,
        }
    }
    let (length, rest) = bytes.get(..filled)?.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let message = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if crc32fast::hash(message) != u32::from_le_bytes(*checksum) {
        return None;
    }
    Slot::decode(message).ok()
}

/// Is the append in the log? What there is of one that is not whole is cut off.
fn is_complete(slot: &Slot, log: Option<&File>) -> std::io::Result<bool> {
    let Some(log) = log.filter(|_| slot.inode != 0) else { return Ok(true) };
    let meta = log.metadata()?;
    // Another file: the log was rotated, which is asked of the daemon, between two appends.
    if meta.ino() != slot.inode || meta.len() >= slot.before + slot.appended {
        return Ok(true);
    }
    if meta.len() > slot.before {
        log.set_len(slot.before)?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use husk_proto::agent::OutputStream;

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn log(&self) -> File {
            OpenOptions::new().append(true).create(true).open(self.dir.path().join("log")).unwrap()
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("log")).unwrap()
        }

        fn open(&self, log: &File) -> (Journal, Resume) {
            Journal::open(&self.dir.path().join("journal"), Some(log)).unwrap()
        }
    }

    const OUTPUT: &[u8] = b"one\ntwo\nthree\nand the last";

    /// Writes `OUTPUT` from where the journal says, `step` bytes a time, and dies at the `kill`th point where
    /// that is possible; a write to the log is cut after `torn` bytes.
    fn run(fixture: &Fixture, step: usize, kill: usize, torn: usize) -> bool {
        let mut log = fixture.log();
        let (mut journal, resume) = fixture.open(&log);
        let (mut offset, mut encoder) = (resume.offset as usize, resume.encoder);
        let mut points = 0;
        let mut dies = || {
            points += 1;
            points > kill
        };
        while offset < OUTPUT.len() {
            let end = (offset + step).min(OUTPUT.len());
            let mut lines = Vec::new();
            encoder.push(OutputStream::Stdout, &OUTPUT[offset..end], "T", &mut lines);
            if dies() {
                return false;
            }
            journal.intend(Some(&log), lines.len(), end as u64, &encoder).unwrap();
            if dies() {
                log.write_all(&lines[..torn.min(lines.len())]).unwrap();
                return false;
            }
            log.write_all(&lines).unwrap();
            offset = end;
        }
        let mut lines = Vec::new();
        encoder.finish("T", &mut lines);
        log.write_all(&lines).unwrap();
        true
    }

    #[test]
    fn a_kill_at_any_point_neither_loses_nor_doubles_a_line() {
        for step in [1, 3, 7, 100] {
            for kill in 0..40 {
                for torn in [0, 1, 5, 1000] {
                    let fixture = Fixture::new();
                    let first = run(&fixture, step, kill, torn);
                    if !first {
                        assert!(run(&fixture, step, usize::MAX, 0));
                    }
                    assert_eq!(
                        fixture.text(),
                        "T stdout F one\nT stdout F two\nT stdout F three\nT stdout F and the last\n",
                        "step {step} kill {kill} torn {torn}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_torn_slot_does_not_count() {
        let fixture = Fixture::new();
        let log = fixture.log();
        let (mut journal, _) = fixture.open(&log);
        journal.intend(Some(&log), 0, 5, &LogEncoder::default()).unwrap();
        journal.intend(Some(&log), 0, 9, &LogEncoder::default()).unwrap();
        journal.file.write_all_at(&[0xff; 20], HEADER as u64).unwrap();
        assert_eq!(fixture.open(&log).1.offset, 5);
    }

    #[test]
    fn a_rotated_log_is_left_alone() {
        let fixture = Fixture::new();
        let log = fixture.log();
        let (mut journal, _) = fixture.open(&log);
        journal.intend(Some(&log), 100, 7, &LogEncoder::default()).unwrap();
        std::fs::rename(fixture.dir.path().join("log"), fixture.dir.path().join("old")).unwrap();
        let other = fixture.log();
        assert_eq!(fixture.open(&other).1.offset, 7);
    }
}
