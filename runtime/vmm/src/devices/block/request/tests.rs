use super::*;
use crate::control::Extent;
use crate::virtio::testing::{Driver, memory};
use std::fs::File;
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const HEADER_AT: u64 = 0x8000;
const DATA_AT: u64 = 0x9000;
const STATUS_AT: u64 = 0xf000;

fn medium(read_only: bool, content: &[u8]) -> (Medium, File) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    let copy = file.try_clone().unwrap();
    let extent = Extent { fd: 0, offset: 0, length: content.len() as u64 };
    (Medium::new(read_only, &[extent], vec![file.into()]).unwrap(), copy)
}

/// As the device and its threads do one after the other.
fn serve(chain: &Chain, medium: Option<&Medium>, serial: &str, write_back: bool) -> Option<Answer> {
    match begin(chain, medium, serial) {
        Begun::Answered(answer) => answer,
        Begun::Waits(rest) => finish(chain, medium.unwrap(), &rest, write_back),
    }
}

struct Case {
    kind: u32,
    sector: u64,
    /// Address, bytes, writable by the device.
    data: Vec<(u64, u32, bool)>,
}

/// Runs a request; its status, and the used length.
fn run_case(memory: &GuestMemoryMmap, medium: Option<&Medium>, case: &Case) -> (u8, u32) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&case.kind.to_le_bytes());
    header[8..].copy_from_slice(&case.sector.to_le_bytes());
    memory.write_slice(&header, GuestAddress(HEADER_AT)).unwrap();
    memory.write_obj(0xff_u8, GuestAddress(STATUS_AT)).unwrap();
    // The header in two odd pieces.
    let mut parts = vec![(HEADER_AT, 3, false), (HEADER_AT + 3, 13, false)];
    parts.extend(&case.data);
    parts.push((STATUS_AT, 1, true));
    let chain = Driver::new(memory).chain(&parts).unwrap();
    let answer = serve(&chain, medium, "husk-slot-7", true).unwrap();
    (memory.read_obj(GuestAddress(STATUS_AT)).unwrap(), answer.bytes)
}

fn case(kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> Case {
    Case { kind, sector, data: data.to_vec() }
}

#[test]
fn reads_and_writes_arrive_whole_over_odd_pieces() {
    let memory = memory();
    let content: Vec<u8> = (0..2048).map(|i| (i / 7) as u8).collect();
    let (medium, file) = medium(false, &content);
    let pieces = [(DATA_AT, 100, true), (DATA_AT + 200, 924, true)];
    assert_eq!(run_case(&memory, Some(&medium), &case(VIRTIO_BLK_T_IN, 1, &pieces)), (0, 1025));
    let mut got = vec![0; 1124];
    memory.read_slice(&mut got, GuestAddress(DATA_AT)).unwrap();
    assert_eq!([&got[..100], &got[200..]].concat(), content[512..1536]);

    memory.write_slice(&[9; 512], GuestAddress(DATA_AT)).unwrap();
    let out = case(VIRTIO_BLK_T_OUT, 3, &[(DATA_AT, 511, false), (DATA_AT + 511, 1, false)]);
    assert_eq!(run_case(&memory, Some(&medium), &out), (0, 1));
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 1536).unwrap();
    assert_eq!(sector, [9; 512]);
    assert_eq!(run_case(&memory, Some(&medium), &case(VIRTIO_BLK_T_FLUSH, 0, &[])), (0, 1));
}

#[test]
fn nothing_beyond_the_disk_and_no_odd_sizes() {
    let memory = memory();
    let (medium, _file) = medium(false, &[1; 2048]);
    let read = |sector, bytes| {
        run_case(&memory, Some(&medium), &case(VIRTIO_BLK_T_IN, sector, &[(DATA_AT, bytes, true)])).0
    };
    assert_eq!((read(3, 512), read(3, 1024), read(4, 512), read(0, 511)), (0, 1, 1, 1));
    assert_eq!((read(u64::MAX, 512), read(u64::MAX / 512 + 1, 512)), (1, 1));
    let write = case(VIRTIO_BLK_T_OUT, 4, &[(DATA_AT, 512, false)]);
    assert_eq!(run_case(&memory, Some(&medium), &write).0, 1);
}

#[test]
fn read_only_media_and_empty_slots_refuse() {
    let memory = memory();
    let (medium, file) = medium(true, &[1; 1024]);
    let segment = [(DATA_AT, 16, false)];
    memory.write_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], GuestAddress(DATA_AT)).unwrap();
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(run_case(&memory, Some(&medium), &case(kind, 0, &segment)).0, 1);
    }
    let out = case(VIRTIO_BLK_T_OUT, 0, &[(DATA_AT, 512, false)]);
    assert_eq!(run_case(&memory, Some(&medium), &out).0, 1);
    let mut content = [0; 1024];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [1; 1024]);
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH] {
        let data = (DATA_AT, 512, kind == VIRTIO_BLK_T_IN);
        assert_eq!(run_case(&memory, None, &case(kind, 0, &[data])).0, 1);
    }
}

#[test]
fn the_serial_is_told_even_without_a_medium() {
    let memory = memory();
    let id = case(VIRTIO_BLK_T_GET_ID, 0, &[(DATA_AT, 20, true)]);
    assert_eq!(run_case(&memory, None, &id), (0, 21));
    let mut serial = [0xff; 20];
    memory.read_slice(&mut serial, GuestAddress(DATA_AT)).unwrap();
    assert_eq!(&serial, b"husk-slot-7\0\0\0\0\0\0\0\0\0");
    let short = case(VIRTIO_BLK_T_GET_ID, 0, &[(DATA_AT, 19, true)]);
    assert_eq!(run_case(&memory, None, &short).0, 1);
}

#[test]
fn zeroes_and_discards_are_bounded() {
    let memory = memory();
    let (medium, file) = medium(false, &[7; 4096]);
    let run = |kind, sector: u64, sectors: u32, flags: u32| {
        let mut segment = sector.to_le_bytes().to_vec();
        segment.extend(sectors.to_le_bytes());
        segment.extend(flags.to_le_bytes());
        memory.write_slice(&segment, GuestAddress(DATA_AT)).unwrap();
        run_case(&memory, Some(&medium), &case(kind, 0, &[(DATA_AT, 16, false)])).0
    };
    assert_eq!(run(VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 0), 0);
    assert_eq!(run(VIRTIO_BLK_T_WRITE_ZEROES, 4, 1, 1), 0);
    let mut content = vec![0; 4096];
    file.read_exact_at(&mut content, 0).unwrap();
    let sectors: Vec<u8> = content.chunks(512).map(|sector| sector[511]).collect();
    assert_eq!(sectors, [7, 0, 0, 7, 0, 7, 7, 7]);
    assert_eq!(run(VIRTIO_BLK_T_DISCARD, 0, 8, 0), 0);
    assert_eq!(run(VIRTIO_BLK_T_DISCARD, 0, 9, 0), 1);
    assert_eq!(run(VIRTIO_BLK_T_DISCARD, u64::MAX, 1, 0), 1);
    assert_eq!(run(VIRTIO_BLK_T_DISCARD, 0, 1, 1), 2);
    assert_eq!(run(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), 2);
    assert_eq!(run(VIRTIO_BLK_T_WRITE_ZEROES, 0, u32::MAX, 0), 1);
}

#[test]
fn malformed_requests_are_errors() {
    let memory = memory();
    let (medium, _file) = medium(false, &[7; 4096]);
    assert_eq!(run_case(&memory, Some(&medium), &case(99, 0, &[])).0, 2);
    // No room for a status, and a header that is too short.
    let driver = Driver::new(&memory);
    let no_status = driver.chain(&[(HEADER_AT, 16, false)]).unwrap();
    assert!(serve(&no_status, Some(&medium), "", true).is_none());
    let short = driver.chain(&[(HEADER_AT, 15, false), (STATUS_AT, 1, true)]).unwrap();
    assert_eq!(serve(&short, Some(&medium), "", true).unwrap().outcome, Outcome::Failed);
}
