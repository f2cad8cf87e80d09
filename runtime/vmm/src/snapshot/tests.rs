use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use kvm_bindings::kvm_cpuid_entry2;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::memory::{self, PAGE};
use super::state::{State, StateError, check_cpuid, frame, unframe};

const BYTES: u64 = 1 << 20;

/// Memory in two parts, in each of which a page is not zero.
fn source() -> GuestMemoryMmap {
    let half = (BYTES / 2) as usize;
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), half), (GuestAddress(4 << 30), half)]).unwrap();
    memory.write_slice(&[1; PAGE], GuestAddress(3 * PAGE as u64)).unwrap();
    // Written, and zero all the same.
    memory.write_slice(&[0; PAGE], GuestAddress(9 * PAGE as u64)).unwrap();
    memory.write_slice(&[2], GuestAddress((4 << 30) + BYTES / 2 - 1)).unwrap();
    memory
}

fn written() -> (File, [u8; 32]) {
    let to = tempfile::tempfile().unwrap();
    let digest = memory::write(&source(), &to).unwrap();
    (to, digest)
}

#[test]
fn memory_is_written_with_holes_and_read_back() {
    let (to, digest) = written();
    memory::check(&to, BYTES, &digest, true).unwrap();
    let mut is = vec![0; BYTES as usize];
    to.read_exact_at(&mut is, 0).unwrap();
    let mut was = vec![0; BYTES as usize];
    was[3 * PAGE..4 * PAGE].fill(1);
    was[BYTES as usize - 1] = 2;
    assert!(was == is);
    assert!(to.metadata().unwrap().blocks() * 512 <= 4 * PAGE as u64);
    assert!(memory::write(&source(), &to).is_err(), "it is not empty");
}

#[test]
fn memory_that_is_another_or_damaged_is_refused() {
    let refused = |change: &dyn Fn(&File), bytes: u64, part: &str| {
        let (file, digest) = written();
        change(&file);
        let why = memory::check(&file, bytes, &digest, true).unwrap_err();
        assert!(why.contains(part), "{why}");
    };
    refused(&|_| {}, BYTES / 2, "should be");
    refused(&|file| file.set_len(BYTES).unwrap(), BYTES, "cut short");
    refused(&|file| file.write_all_at(b"X", BYTES).unwrap(), BYTES, "not the memory");
    refused(&|file| file.write_all_at(b"X", BYTES + 12).unwrap(), BYTES, "another state");
    refused(&|file| file.write_all_at(b"X", 3 * PAGE as u64).unwrap(), BYTES, "checksum");
    refused(&|file| file.write_all_at(b"X", 50 * PAGE as u64).unwrap(), BYTES, "checksum");
    // The same pages elsewhere are not the same memory.
    refused(
        &|file| {
            file.write_all_at(&[0; PAGE], 3 * PAGE as u64).unwrap();
            file.write_all_at(&[1; PAGE], 4 * PAGE as u64).unwrap();
        },
        BYTES,
        "checksum",
    );
}

#[test]
fn a_frame_holds_its_content_and_nothing_else() {
    let whole = frame(b"content").unwrap();
    assert_eq!(unframe(&whole).unwrap(), b"content");
    for length in 0..whole.len() {
        unframe(&whole[..length]).unwrap_err();
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(matches!(unframe(&longer), Err(StateError::Length { wanted: 7, found: 8 })));
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            unframe(&flipped).unwrap_err();
        }
    }
    assert!(frame(&vec![0; 5 << 20]).is_err());
}

#[test]
fn what_is_in_the_header_is_named() {
    let with = |at: usize, bytes: &[u8]| {
        let mut file = frame(b"{}").unwrap();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        unframe(&file).unwrap_err().to_string()
    };
    assert!(with(0, b"NOTASNAP").contains("not the state"));
    assert!(with(8, &7_u32.to_le_bytes()).contains("format is 7"));
    assert!(with(16, b"0.0.0-other\n").contains("husk-vmm 0.0.0-other\\n"));
    assert!(with(12, &u32::MAX.to_le_bytes()).contains("4294967295 bytes"));
    assert!(with(81, b"]").contains("damaged"));
}

#[test]
fn a_content_that_is_no_state_is_refused() {
    for content in ["", "{}", "null", "[1]", "{\"shape\": 1}", "\u{0}"] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&frame(content.as_bytes()).unwrap()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert!(matches!(State::read(&file), Err(StateError::Content(_))), "{content:?}");
    }
}

#[test]
fn other_cpus_are_told_by_their_leaf() {
    let entry = |function, eax| kvm_cpuid_entry2 { function, eax, ..Default::default() };
    let saved = [entry(1, 5), entry(7, 6)];
    check_cpuid(&saved, &saved).unwrap();
    for (own, leaf) in [
        (vec![entry(1, 5)], "0x7"),
        (vec![entry(1, 4), entry(7, 6)], "0x1"),
        (vec![entry(1, 5), entry(7, 6), entry(0x8000_0001, 1)], "0x80000001"),
    ] {
        let why = check_cpuid(&saved, &own).unwrap_err();
        assert!(why.contains(&format!("leaf {leaf},")), "{why}");
    }
}
