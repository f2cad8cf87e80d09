//! What a file was when it was published: its bytes and their checksum. A disk is mostly holes, which are counted
//! as the zeroes that they are, without being read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc32fast::Hasher;
use rustix::fs::{SeekFrom, seek as seek_in};
use rustix::io::Errno;

use super::index::Sealed;
use crate::error::{IoContext, Result};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
static ZEROES: [u8; 4096] = [0; 4096];

/// What the file at `path` is.
pub(super) fn seal(path: &Path) -> Result<Sealed> {
    read(path).during(|| format!("reading {}", path.display()))
}

fn read(path: &Path) -> io::Result<Sealed> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut crc = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let data = match seek_in(&file, SeekFrom::Data(at)) {
            Ok(data) => data.min(length),
            // Only a hole is left.
            Err(Errno::NXIO) => length,
            Err(error) => return Err(error.into()),
        };
        crc.combine(&zeroes(data - at));
        at = data;
        let end = if data < length { seek_in(&file, SeekFrom::Hole(data))?.min(length) } else { length };
        while at < end {
            let n = buffer.len().min(usize::try_from(end - at).unwrap_or(CHUNK));
            file.read_exact_at(&mut buffer[..n], at)?;
            crc.update(&buffer[..n]);
            at += n as u64;
        }
    }
    Ok(Sealed { length, crc: crc.finalize() })
}

/// The checksum of so many zeroes, in a time that grows with the number's digits.
fn zeroes(length: u64) -> Hasher {
    let short = usize::try_from(length).ok().and_then(|length| ZEROES.get(..length));
    let mut all = Hasher::new();
    if let Some(bytes) = short {
        all.update(bytes);
        return all;
    }
    let half = zeroes(length / 2);
    all.combine(&half);
    all.combine(&half);
    if length % 2 == 1 {
        all.update(&[0]);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_are_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        let (sparse, full) = (dir.path().join("sparse"), dir.path().join("full"));
        for (length, written) in [
            (0_usize, &[][..]),
            (1, &[]),
            (3 << 20, &[]),
            ((5 << 20) + 513, &[0, (2 << 20) + 7]),
            ((5 << 20) + 513, &[(5 << 20) + 512]),
            (4 << 20, &[1 << 20, (1 << 20) + 4096, (3 << 20) + 4095]),
        ] {
            let mut content = vec![0; length];
            let file = File::create(&sparse).unwrap();
            file.set_len(length as u64).unwrap();
            for at in written {
                content[*at] = 7;
                file.write_all_at(&[7], *at as u64).unwrap();
            }
            std::fs::write(&full, &content).unwrap();
            assert!(length < 4096 || file.metadata().unwrap().blocks() * 512 < length as u64 / 2);
            let expected = Sealed { length: length as u64, crc: crc32fast::hash(&content) };
            assert_eq!((seal(&sparse).unwrap(), seal(&full).unwrap()), (expected, expected));
        }
    }

    #[test]
    fn a_large_hole_takes_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(seal(&path).unwrap().length, 1 << 40);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }
}
