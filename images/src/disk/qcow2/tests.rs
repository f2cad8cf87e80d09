//! Images made by hand, byte by byte; `images/tests` has those of the real `qemu-img`.

use std::io::Write;

use proptest::prelude::*;

use super::*;

const CLUSTER: usize = 512;
/// Where the tables of [`image`] are.
const COUNTS: usize = CLUSTER;
const L1: usize = 2 * CLUSTER;
const L2: usize = 3 * CLUSTER;
const DATA: usize = 4 * CLUSTER;
/// The disk's size: all that one L2 table covers.
const SIZE: u64 = 64 * CLUSTER as u64;

/// Version 3 with clusters of 512 bytes: header, reference counts, L1, L2, and one data cluster, the disk's second.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 5 * CLUSTER];
    bytes[..4].copy_from_slice(&MAGIC);
    put32(&mut bytes, 4, 3);
    put32(&mut bytes, 20, 9);
    put64(&mut bytes, 24, SIZE);
    put32(&mut bytes, 36, 1);
    put64(&mut bytes, 40, L1 as u64);
    put64(&mut bytes, 48, COUNTS as u64);
    put32(&mut bytes, 56, 1);
    put32(&mut bytes, 96, 4);
    put32(&mut bytes, 100, 104);
    put64(&mut bytes, L1, L2 as u64 | 1 << 63);
    put64(&mut bytes, L2 + 8, DATA as u64 | 1 << 63);
    bytes[DATA..].fill(7);
    bytes
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn small() -> Limits {
    Limits { disk_bytes: 1 << 20, ..Limits::default() }
}

/// The disk in `image`.
fn read(image: &[u8], limits: &Limits) -> Result<Vec<u8>, ConvertError> {
    let mut qcow2 = Qcow2::open(image, limits)?;
    let mut disk = vec![0; usize::try_from(qcow2.header().size).unwrap()];
    let mut last = None;
    qcow2.each_cluster(|offset, bytes| {
        assert!(last.replace(offset).is_none_or(|last| last < offset), "out of order");
        disk[usize::try_from(offset).unwrap()..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    })?;
    Ok(disk)
}

/// Changes the good image and gives what is said of it.
fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> ConvertError {
    let mut bytes = image();
    change(&mut bytes);
    read(&bytes, &small()).unwrap_err()
}

fn expected() -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    disk[CLUSTER..2 * CLUSTER].fill(7);
    disk
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Puts `packed` behind the good image's end as the disk's third cluster.
fn with_compressed(packed: &[u8]) -> Vec<u8> {
    let mut bytes = image();
    let place = bytes.len() as u64 + 3;
    let sectors = (place + packed.len() as u64).div_ceil(512) - place / 512 - 1;
    put64(&mut bytes, L2 + 16, COMPRESSED_BIT | sectors << 61 | place);
    bytes.extend([0; 3]);
    bytes.extend(packed);
    bytes
}

const COMPRESSED_BIT: u64 = 1 << 62;

#[test]
fn both_versions_are_read() {
    assert_eq!(read(&image(), &small()).unwrap(), expected());
    let mut v2 = image();
    put32(&mut v2, 4, 2);
    // Version 2 ends before these.
    v2[72..CLUSTER].fill(0xff);
    assert_eq!(read(&v2, &small()).unwrap(), expected());
}

#[test]
fn holes_zero_clusters_and_cut_ends_are_zero() {
    let mut zero = image();
    put64(&mut zero, L2 + 8, DATA as u64 | 1);
    assert_eq!(read(&zero, &small()).unwrap(), vec![0; SIZE as usize]);
    put64(&mut zero, L2 + 8, 1);
    assert_eq!(read(&zero, &small()).unwrap(), vec![0; SIZE as usize]);
    let mut hole = image();
    put64(&mut hole, L1, 0);
    assert_eq!(read(&hole, &small()).unwrap(), vec![0; SIZE as usize]);
    let mut cut = image();
    cut.truncate(DATA + 100);
    let mut disk = expected();
    disk[CLUSTER + 100..2 * CLUSTER].fill(0);
    assert_eq!(read(&cut, &small()).unwrap(), disk);
    // A disk that ends within the cluster, and a table that goes on behind it.
    let mut short = image();
    put64(&mut short, 24, CLUSTER as u64 + 200);
    put64(&mut short, L2 + 24, 0x123);
    assert_eq!(read(&short, &small()).unwrap(), expected()[..CLUSTER + 200]);
    put64(&mut short, 24, 0);
    assert!(read(&short, &small()).unwrap().is_empty());
}

#[test]
fn the_disk_is_written_sparse_and_in_whole_sectors() {
    let mut bytes = image();
    put64(&mut bytes, 24, CLUSTER as u64 + 200);
    let disk = tempfile::tempfile().unwrap();
    assert_eq!(convert_qcow2(&bytes[..], &disk, &small()).unwrap(), 1024);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [&b"before"[..], &image(), b"after"].concat()).unwrap();
    let source = FilePiece { file: file.as_file(), offset: 6, length: image().len() as u64 };
    let disk = tempfile::tempfile().unwrap();
    assert_eq!(convert_qcow2(&source, &disk, &small()).unwrap(), SIZE);
    let mut found = vec![0; 2 * CLUSTER];
    disk.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, expected()[..2 * CLUSTER]);
}

#[test]
fn compressed_clusters_are_unpacked() {
    let content: Vec<u8> = (0..CLUSTER).map(|n| (n / 3) as u8).collect();
    let mut disk = expected();
    disk[2 * CLUSTER..3 * CLUSTER].copy_from_slice(&content);
    assert_eq!(read(&with_compressed(&deflated(&content)), &small()).unwrap(), disk);
    let damaged = |bytes: &[u8], says: &str| {
        let error = read(bytes, &small()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    let whole = with_compressed(&deflated(&content));
    damaged(&whole[..whole.len() - 20], "damaged");
    damaged(&whole[..DATA + CLUSTER], "beyond the end");
    damaged(&with_compressed(&deflated(&content[1..])), "damaged");
    damaged(&with_compressed(&[0xff; 100]), "damaged");
    // More than a cluster: what is too much is not unpacked.
    let mut more = content.clone();
    more.extend([1; 4096]);
    assert_eq!(read(&with_compressed(&deflated(&more)), &small()).unwrap(), disk);
    // A place that reaches far behind the end, in every way.
    let mut far = image();
    put64(&mut far, L2 + 16, u64::MAX);
    damaged(&far, "beyond the end");
}

#[test]
fn what_needs_more_than_the_file_is_refused_with_what_mends_it() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str, &str); 14] = [
        (|b| put64(b, 8, 0x200), "has a backing file", "convert -O qcow2 IMAGE NEW"),
        (|b| put64(b, 8, u64::MAX), "has a backing file", "convert"),
        (|b| put32(b, 32, 1), "is encrypted", "--object secret"),
        (|b| put32(b, 32, 2), "is encrypted", "encrypt.key-secret"),
        (|b| put64(b, 72, 1), "was not closed cleanly", "check -r all"),
        (|b| put64(b, 72, 2), "marked as corrupt", "check -r all"),
        (|b| put64(b, 72, 4), "external file", "convert -O qcow2 IMAGE NEW"),
        (|b| put64(b, 72, 8), "another method than zlib", "compression_type=zlib"),
        (|b| put64(b, 72, 16), "extended L2", "extended_l2=off"),
        (|b| put64(b, 72, 1 << 63), "incompatible bits 0x8000000000000000", "convert"),
        (|b| put64(b, 72, 1 << 5 | 1), "was not closed cleanly", "check"),
        (|b| put32(b, 4, 1), "version 1", "convert -O qcow2"),
        (|b| put32(b, 4, u32::MAX), "version 4294967295", "convert"),
        (
            |b| {
                put32(b, 100, 112);
                b[104] = 1;
            },
            "another method than zlib",
            "compression_type=zlib",
        ),
    ];
    for (change, what, mend) in cases {
        let error = refusal(change);
        let text = error.to_string();
        assert!(matches!(error, ConvertError::Unsupported(_)), "{text}");
        assert!(text.contains(what) && text.contains("`qemu-img") && text.contains(mend), "{what}: {text}");
    }
}

#[test]
fn impossible_headers_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 15] = [
        (|b| b.truncate(0), "no qcow2 image"),
        (|b| b.truncate(71), "no qcow2 image"),
        (|b| b.truncate(100), "bytes long"),
        (|b| b[0] = b'q', "no qcow2 image"),
        (|b| put32(b, 20, 8), "2^8 bytes"),
        (|b| put32(b, 20, 22), "2^22 bytes"),
        (|b| put32(b, 20, u32::MAX), "clusters of 2^4294967295"),
        (|b| put32(b, 100, 96), "96 bytes long"),
        (|b| put32(b, 100, 520), "520 bytes of header"),
        (|b| put32(b, 96, 7), "reference counts of 2^7"),
        (|b| put32(b, 36, 0), "the disk needs 1"),
        (|b| put64(b, 40, 4 * 512 + 8), "does not begin with a cluster"),
        (|b| put64(b, 40, 1 << 40), "beyond the end"),
        (|b| put64(b, 40, !511), "beyond the end"),
        (|b| b.truncate(L1 + 4), "beyond the end"),
    ];
    for (change, says) in cases {
        let error = refusal(change);
        assert!(matches!(error, ConvertError::Malformed(_)) && error.to_string().contains(says), "{error}");
    }
}

#[test]
fn nonsense_of_reference_counts_is_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 5] = [
        (|b| put64(b, 48, 77), "does not begin with a cluster"),
        (|b| put64(b, 48, 1 << 50), "beyond the end"),
        (|b| put32(b, 56, u32::MAX), "beyond the end"),
        (|b| put64(b, 48, 0), "twice"),
        (|b| put64(b, 48, L1 as u64), "twice"),
    ];
    for (change, says) in cases {
        let error = refusal(change).to_string();
        assert!(error.contains("table of reference counts") && error.contains(says), "{error}");
    }
}

#[test]
fn tables_that_lead_astray_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 15] = [
        (|b| put64(b, L1, 1 << 40), "beyond the end"),
        (|b| put64(b, L1, 5 * 512), "beyond the end"),
        (|b| put64(b, L1, L2 as u64 | 1), "reserved"),
        (|b| put64(b, L1, L2 as u64 | 1 << 62), "reserved"),
        // Loops: a table that is the header, the L1 table, or data.
        (|b| put64(b, L1, L1 as u64), "twice"),
        (|b| put64(b, L1, COUNTS as u64), "twice"),
        (|b| put64(b, L2 + 8, L2 as u64), "twice"),
        (|b| put64(b, L2 + 8, L1 as u64), "twice"),
        (|b| put64(b, L2 + 16, DATA as u64), "twice"),
        (|b| put64(b, L2 + 16, DATA as u64 | 1), "twice"),
        (|b| put64(b, L2 + 8, 5 * 512), "beyond the end"),
        (|b| put64(b, L2 + 8, 0x00ff_ffff_ffff_fe00), "beyond the end"),
        (|b| put64(b, L2 + 8, DATA as u64 | 2), "reserved"),
        (|b| put64(b, L2 + 8, DATA as u64 | 1 << 56), "reserved"),
        (|b| b.truncate(L2 + 100), "beyond the end"),
    ];
    for (change, says) in cases {
        let error = refusal(change);
        assert!(matches!(error, ConvertError::Malformed(_)) && error.to_string().contains(says), "{error}");
    }
    // With clusters of 4 KiB the offset can be one that is no cluster's.
    let mut large = vec![0; 5 * 4096];
    let small_header: Vec<u8> = image()[..CLUSTER].to_vec();
    large[..CLUSTER].copy_from_slice(&small_header);
    put32(&mut large, 20, 12);
    put64(&mut large, 40, 2 * 4096);
    put64(&mut large, 48, 4096);
    for (l1, l2) in [(3 * 4096 + 512, 0), (3 * 4096, 4 * 4096 + 512)] {
        put64(&mut large, 2 * 4096, l1);
        put64(&mut large, 3 * 4096, l2);
        let error = read(&large, &small()).unwrap_err().to_string();
        assert!(error.contains("does not begin with a cluster"), "{error}");
    }
    // In version 2 no cluster is marked as zero.
    let error = refusal(|b| {
        put32(b, 4, 2);
        put64(b, L2 + 8, DATA as u64 | 1);
    });
    assert!(error.to_string().contains("reserved"), "{error}");
}

#[test]
fn budgets_hold() {
    let too_large = |bytes: &[u8], limits: &Limits, says: &str| {
        let error = read(bytes, limits).unwrap_err();
        assert!(matches!(&error, ConvertError::TooLarge(what) if what.contains(says)), "{error}");
    };
    let mut huge = image();
    for size in [(1 << 20) + 1, 1 << 62, u64::MAX] {
        put64(&mut huge, 24, size);
        too_large(&huge, &small(), "a disk of");
    }
    // An L1 table of more than 32 MiB, though it said that it were there.
    put64(&mut huge, 24, 1 << 40);
    put32(&mut huge, 36, u32::MAX);
    too_large(&huge, &Limits::default(), "L1 table");
    let mut many = image();
    let content = deflated(&[0; CLUSTER]);
    let place = many.len() as u64;
    many.extend(&content);
    for index in 2..64 {
        put64(&mut many, L2 + 8 * index, COMPRESSED_BIT | place);
    }
    assert_eq!(read(&many, &small()).unwrap(), expected());
    let bomb = Limits { ratio: 2, ratio_floor: 4096, ..small() };
    too_large(&many, &bomb, "bytes of data");
    too_large(&many, &Limits { layer_bytes: 10_000, ..small() }, "10000 bytes of data");
}

proptest! {
    /// Whatever is changed, it ends with a disk or an error.
    #[test]
    fn damage_never_panics(
        changes in proptest::collection::vec((0..6 * CLUSTER, any::<u8>()), 1..20),
        words in proptest::collection::vec((0..5 * CLUSTER / 8, any::<u64>()), 0..3),
        length in 0..6 * CLUSTER,
    ) {
        let mut bytes = with_compressed(&deflated(&[9; CLUSTER]));
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        for (at, value) in words {
            put64(&mut bytes, at * 8, value);
        }
        bytes.truncate(length.max(CLUSTER));
        let _ = read(&bytes, &small());
    }
}
