//! Files whose zeroes take no space.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is left out where it is zero, in bytes: a block of the usual file systems.
const BLOCK: usize = 4096;

/// Writes `bytes` at `offset` of `file`, which is a hole there, without its blocks of zeroes.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut run = 0..0;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        let start = index * BLOCK;
        if is_zero(block) {
            flush(file, bytes, &run, offset)?;
            run = 0..0;
        } else if run.is_empty() {
            run = start..start + block.len();
        } else {
            run.end = start + block.len();
        }
    }
    flush(file, bytes, &run, offset)
}

fn flush(file: &File, bytes: &[u8], run: &std::ops::Range<usize>, offset: u64) -> io::Result<()> {
    match bytes.get(run.clone()) {
        Some(run_bytes) if !run_bytes.is_empty() => file.write_all_at(run_bytes, offset + run.start as u64),
        _ => Ok(()),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Without an early exit this is a few vector instructions a block.
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeroes_are_holes_and_all_else_is_there() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 1 << 20];
        for at in [0, BLOCK, 3 * BLOCK - 1, 100 * BLOCK + 7, (1 << 20) - 1] {
            bytes[at] = 1;
        }
        write_at(&file, &bytes, 0).unwrap();
        // Neither aligned nor whole.
        write_at(&file, &bytes[..5 * BLOCK + 3], (2 << 20) + 5).unwrap();
        file.set_len(4 << 20).unwrap();
        let mut found = vec![0; 4 << 20];
        file.read_exact_at(&mut found, 0).unwrap();
        let mut expected = bytes.clone();
        expected.resize(4 << 20, 0);
        expected[(2 << 20) + 5..][..5 * BLOCK + 3].copy_from_slice(&bytes[..5 * BLOCK + 3]);
        assert!(found == expected);
        assert!(file.metadata().unwrap().blocks() * 512 <= 16 * BLOCK as u64);
    }
}
