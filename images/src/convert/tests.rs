//! Layers as tests make them, honest and hostile.

use std::io::{Read, Seek, Write};

use super::{ConvertError, Limits, Verdict, convert_layer, unpack};
use crate::tree::{Entry, Kind, TreeReader};

/// A raw ustar header with a right checksum.
pub(crate) fn header(name: &[u8], kind: u8, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000001");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

/// Sets a header's checksum.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive of entries given as (name, type, link target or contents).
pub(crate) fn archive(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, body) in entries {
        if *kind == b'0' || *kind == b'x' || *kind == b'g' || *kind == b'L' {
            out.extend_from_slice(&header(name.as_bytes(), *kind, body.len() as u64));
            out.extend_from_slice(body);
            out.resize(out.len().next_multiple_of(512), 0);
        } else {
            let mut block = header(name.as_bytes(), *kind, 0);
            block[157..157 + body.len()].copy_from_slice(body);
            if *kind == b'5' {
                block[100..107].copy_from_slice(b"0000755");
            }
            seal(&mut block);
            out.extend_from_slice(&block);
        }
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// One PAX record.
pub(crate) fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let length = (1..).find(|n| body + n.to_string().len() == *n).unwrap();
    format!("{length} {key}={value}\n").into_bytes()
}

type Converted = (Verdict, Vec<Entry>, Vec<u8>);

fn convert(input: &[u8], limits: &Limits) -> Result<Converted, ConvertError> {
    let (mut data, mut tree) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut archive = Vec::new();
    unpack(input, &mut archive, limits)?;
    let verdict = convert_layer(&archive[..], &data, &tree, limits)?;
    tree.rewind().unwrap();
    data.rewind().unwrap();
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, verdict.data_len);
    let entries = TreeReader::new(tree, verdict.data_len).unwrap().map(Result::unwrap).collect();
    Ok((verdict, entries, bytes))
}

fn fails(input: &[u8]) -> String {
    convert(input, &Limits::default()).expect_err("accepted").to_string()
}

#[test]
fn every_compression_gives_the_same_layer() {
    let tar = archive(&[("d/", b'5', b""), ("d/f", b'0', b"hello"), ("d/l", b'2', b"f")]);
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let members = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let skippable = |id: u8, bytes: &[u8]| {
        [&[0x50 | id, 0x2a, 0x4d, 0x18][..], &(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
    };
    // As zstd:chunked: a table of contents in skippable frames, here before and behind as well.
    let frames = [
        skippable(0, b"a table"),
        zstd::encode_all(&tar[..512], 1).unwrap(),
        skippable(0xf, &[]),
        zstd::encode_all(&tar[512..], 1).unwrap(),
        skippable(3, &[7; 100]),
    ]
    .concat();
    // As estargz: every file a member, an empty one with an extra field at the end.
    let extra = [&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 4, 0][..], b"SG\0\0", &[3, 0], &[0; 8]].concat();
    let stargz = [gzip(&tar[..512]), gzip(&tar[512..1536]), gzip(&tar[1536..]), extra].concat();
    let plain = convert(&tar, &Limits::default()).unwrap();
    assert_eq!(plain.1.len(), 3);
    assert_eq!(plain.1[1].kind, Kind::File { offset: 0, size: 5 });
    assert_eq!(&plain.2[..6], b"hello\0");
    assert_eq!(convert(&members, &Limits::default()).unwrap(), plain);
    assert_eq!(convert(&frames, &Limits::default()).unwrap(), plain);
    assert_eq!(convert(&stargz, &Limits::default()).unwrap(), plain);
    assert!(fails(&frames[..frames.len() - 1]).contains("decompress"));
    assert!(fails(&[gzip(&tar), b"junk behind".to_vec()].concat()).contains("decompress"));
    assert!(fails(&members[..members.len() - 9]).contains("decompress"));
    assert!(fails(&tar[..800]).contains("middle"));
    assert!(fails(b"not a tar archive at all, but long enough to be read as a header").contains("middle"));
}

#[test]
fn zeros_after_the_archive_are_read_and_nothing_else() {
    let mut tar = archive(&[("f", b'0', b"x")]);
    tar.resize(tar.len() + 10_240, 0);
    let mut rest = std::io::Cursor::new(&tar);
    let (data, tree) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    convert_layer(&mut rest, &data, &tree, &Limits::default()).unwrap();
    assert_eq!(rest.position(), tar.len() as u64);
    let mut hidden = archive(&[("f", b'0', b"x")]);
    hidden.truncate(hidden.len() - 512);
    hidden.extend_from_slice(&archive(&[("g", b'0', b"x")]));
    assert!(fails(&hidden).contains("block of zeros"));
}

#[test]
fn an_empty_stream_is_an_empty_layer() {
    assert_eq!(convert(&[], &Limits::default()).unwrap().1, []);
    assert_eq!(convert(&[0; 1024], &Limits::default()).unwrap().1, []);
}

#[test]
fn names_cannot_leave_the_image() {
    for name in ["../x", "a/../../x", "/../x"] {
        assert!(fails(&archive(&[(name, b'0', b"x")])).contains(".."), "{name}");
    }
    assert!(fails(&archive(&[("a", b'1', b"../../etc/shadow")])).contains(".."));
    let (_, entries, _) =
        convert(&archive(&[("/etc/x", b'0', b"x"), ("y", b'1', b"/etc/x")]), &Limits::default()).unwrap();
    assert_eq!(entries[0].path, b"etc/x");
    assert_eq!(entries[1].kind, Kind::Hardlink(b"etc/x".to_vec()));
}

#[test]
fn odd_whiteouts_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", ".wh.d/x", ".wh.d/.wh.x"] {
        assert!(fails(&archive(&[(name, b'0', b"")])).contains("whiteout"), "{name}");
    }
    let good = archive(&[("a/.wh.b", b'0', b""), ("a/.wh..wh..opq", b'0', b""), (".wh..wh.plnk", b'0', b"")]);
    let (_, entries, _) = convert(&good, &Limits::default()).unwrap();
    assert_eq!((&entries[0].path[..], &entries[0].kind), (&b"a/b"[..], &Kind::Whiteout));
    assert_eq!((&entries[1].path[..], &entries[1].kind), (&b"a"[..], &Kind::Opaque));
    assert_eq!(entries.len(), 2);
}

#[test]
fn pax_size_wins_over_ustar_size() {
    // The archive of CVE-2025-62518: by ustar's size 0 the contents would be read as headers.
    let inner = archive(&[("smuggled", b'0', b"evil")]);
    let mut tar = archive(&[("p", b'x', &pax("size", &inner.len().to_string()))]);
    tar.truncate(1024);
    tar.extend_from_slice(&header(b"outer", b'0', 0));
    tar.extend_from_slice(&inner);
    tar.extend_from_slice(&[0; 1024]);
    let (_, entries, data) = convert(&tar, &Limits::default()).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].kind, Kind::File { offset: 0, size: inner.len() as u64 });
    assert_eq!(&data[..inner.len()], &inner);
}

#[test]
fn long_names_of_both_kinds() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    for (kind, body) in [(b'x', pax("path", &long)), (b'L', [long.as_bytes(), b"\0"].concat())] {
        let tar = archive(&[("h", kind, &body), ("short", b'0', b"x")]);
        assert_eq!(convert(&tar, &Limits::default()).unwrap().1[0].path, long.as_bytes());
    }
    let both = archive(&[("h", b'x', &pax("path", "a")), ("h", b'L', b"b\0"), ("s", b'0', b"x")]);
    assert!(fails(&both).contains("two names"));
    let global = archive(&[("g", b'g', &pax("path", "a")), ("s", b'0', b"x")]);
    assert!(fails(&global).contains("global"));
    assert_eq!(
        convert(&archive(&[("g", b'g', &pax("comment", "a"))]), &Limits::default()).unwrap().0.entries,
        0
    );
}

#[test]
fn budgets_hold() {
    let zeros = archive(&[("z", b'0', &vec![0; 8 << 20])]);
    let bomb = zstd::encode_all(&zeros[..], 1).unwrap();
    let limits = Limits { ratio_floor: 1 << 20, ratio: 10, ..Limits::default() };
    assert!(matches!(convert(&bomb, &limits), Err(ConvertError::TooLarge(_))));
    assert!(convert(&bomb, &Limits::default()).is_ok());
    let limits = Limits { entries: 2, ..Limits::default() };
    let many = archive(&[("a", b'0', b""), ("b", b'0', b""), ("c", b'0', b"")]);
    assert!(matches!(convert(&many, &limits), Err(ConvertError::TooLarge(_))));
    let limits = Limits { tree_bytes: 100, ..Limits::default() };
    assert!(matches!(convert(&many, &limits), Err(ConvertError::TooLarge(_))));
    assert!(matches!(
        convert(&header(b"x", b'L', 1 << 30), &Limits::default()),
        Err(ConvertError::TooLarge(_))
    ));
}

#[test]
fn a_full_disk_is_the_hosts_failure() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let tar = archive(&[("f", b'0', b"x")]);
    let spare = tempfile::tempfile().unwrap();
    for (data, tree) in [(&full(), &spare), (&spare, &full())] {
        let error = convert_layer(&tar[..], data, tree, &Limits::default()).unwrap_err();
        let ConvertError::Io { message, code } = &error else { panic!("{error}") };
        assert_eq!(*code, Some(libc::ENOSPC), "{message}");
        assert!(message.contains("writing a layer's"), "{message}");
    }
}

#[test]
fn overlay_attributes_and_whiteout_devices_are_dropped() {
    let records = [
        pax("SCHILY.xattr.trusted.overlay.opaque", "y"),
        pax("SCHILY.xattr.user.keep", "v"),
        pax("SCHILY.xattr.user.overlay.opaque", "y"),
    ]
    .concat();
    let tar = archive(&[("h", b'x', &records), ("d/", b'5', b""), ("dev", b'3', b"")]);
    let (_, entries, _) = convert(&tar, &Limits::default()).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].xattrs.len(), 1);
    assert_eq!(entries[0].xattrs[0].name, b"keep");
}

proptest::proptest! {
    /// No bytes make the parser panic, and what it accepts the tree's reader accepts.
    #[test]
    fn mutated_archives_do_no_harm(at in 0_usize..2560, byte: u8, cut in 0_usize..3072) {
        let mut tar = archive(&[("h", b'x', &pax("path", "x/y")), ("d", b'0', b"abc"), ("l", b'1', b"d")]);
        tar[at] = byte;
        if (148..156).contains(&(at % 512)) {
            tar.truncate(cut);
        } else {
            let mut block: [u8; 512] = tar[at / 512 * 512..][..512].try_into().unwrap();
            seal(&mut block);
            tar[at / 512 * 512..][..512].copy_from_slice(&block);
        }
        let _ = convert(&tar, &Limits::default());
    }
}
