//! One request of a driver (virtio 1.2, 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::medium::Medium;
use super::{MAX_DISCARD_SECTORS, MAX_REQUEST, MAX_ZEROES_SECTORS, SECTOR};
use crate::virtio::Chain;

/// `struct virtio_blk_req` before its data.
const HEADER: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const SEGMENT: usize = 16;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done: bytes read and bytes written.
    Ok {
        /// Of the disk, into guest memory.
        read: usize,
        /// To the disk.
        written: usize,
    },
    /// `VIRTIO_BLK_S_IOERR`.
    Failed,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported,
}

const DONE: Outcome = Outcome::Ok { read: 0, written: 0 };

/// What of the request's writable part was written, with its status byte.
pub struct Answer {
    /// For the used ring.
    pub bytes: u32,
    /// The status.
    pub outcome: Outcome,
}

/// Serves the request in `chain`. None when there is no room for even a status.
pub fn serve(chain: &Chain, medium: Option<&Medium>, serial: &str, write_back: bool) -> Option<Answer> {
    let status_at = chain.writable_bytes().checked_sub(1)?;
    let (outcome, filled) = match Header::read(chain) {
        Some(header) => run(chain, &header, status_at, medium, serial, write_back),
        None => (Outcome::Failed, 0),
    };
    let status = match outcome {
        Outcome::Ok { .. } => VIRTIO_BLK_S_OK,
        Outcome::Failed => VIRTIO_BLK_S_IOERR,
        Outcome::Unsupported => VIRTIO_BLK_S_UNSUPP,
    };
    chain.write(status_at, &[status as u8]).then_some(())?;
    // The used length counts from the start of the writable part; its status byte is the last.
    let bytes = if filled == status_at { filled + 1 } else { filled };
    Some(Answer { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), outcome })
}

struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn read(chain: &Chain) -> Option<Self> {
        let mut bytes = [0; HEADER];
        chain.read(0, &mut bytes).then_some(())?;
        let (kind, rest) = bytes.split_first_chunk::<4>()?;
        let (_reserved, sector) = rest.split_first_chunk::<4>()?;
        Some(Self { kind: u32::from_le_bytes(*kind), sector: u64::from_le_bytes(sector.try_into().ok()?) })
    }
}

/// The outcome, and how many bytes of the writable part before the status are filled.
fn run(
    chain: &Chain,
    header: &Header,
    room: usize,
    medium: Option<&Medium>,
    serial: &str,
    write_back: bool,
) -> (Outcome, usize) {
    let data = chain.readable_bytes().saturating_sub(HEADER);
    match header.kind {
        VIRTIO_BLK_T_GET_ID => {
            let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
            id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
            let done = room == id.len() && chain.write(0, &id);
            return if done { (DONE, id.len()) } else { (Outcome::Failed, 0) };
        }
        VIRTIO_BLK_T_IN => {
            let outcome = medium.and_then(|medium| read(chain, medium, header.sector, room));
            return outcome.map_or((Outcome::Failed, 0), |outcome| (outcome, room));
        }
        _ => {}
    }
    let outcome = match header.kind {
        VIRTIO_BLK_T_OUT => writable(medium).and_then(|medium| {
            let start = start(medium, header.sector, data)?;
            medium.write(start, data, |at, bytes| chain.readable(HEADER + at, bytes)).ok()?;
            if !write_back {
                medium.flush().ok()?;
            }
            Some(Outcome::Ok { read: 0, written: data })
        }),
        VIRTIO_BLK_T_FLUSH => medium.and_then(|medium| medium.flush().ok()).map(|()| DONE),
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            writable(medium).and_then(|medium| clear(chain, medium, header.kind, data))
        }
        _ => Some(Outcome::Unsupported),
    };
    (outcome.unwrap_or(Outcome::Failed), 0)
}

fn writable(medium: Option<&Medium>) -> Option<&Medium> {
    medium.filter(|medium| !medium.read_only())
}

/// The byte at which a transfer of `bytes` bytes starts, if the disk has them all.
fn start(medium: &Medium, sector: u64, bytes: usize) -> Option<u64> {
    let start = sector.checked_mul(SECTOR)?;
    let good =
        (bytes as u64).is_multiple_of(SECTOR) && bytes <= MAX_REQUEST && medium.contains(start, bytes as u64);
    good.then_some(start)
}

fn read(chain: &Chain, medium: &Medium, sector: u64, room: usize) -> Option<Outcome> {
    let start = start(medium, sector, room)?;
    medium.read(start, room, |at, bytes| chain.writable(at, bytes)).ok()?;
    Some(Outcome::Ok { read: room, written: 0 })
}

/// Discard and write-zeroes: one segment, as the configuration says.
fn clear(chain: &Chain, medium: &Medium, kind: u32, data: usize) -> Option<Outcome> {
    let mut segment = [0; SEGMENT];
    if data != SEGMENT || !chain.read(HEADER, &mut segment) {
        return None;
    }
    let (sector, rest) = segment.split_first_chunk::<8>()?;
    let (sectors, flags) = rest.split_first_chunk::<4>()?;
    let sector = u64::from_le_bytes(*sector);
    let sectors = u32::from_le_bytes(*sectors);
    let flags = u32::from_le_bytes(flags.try_into().ok()?);
    let zero = kind == VIRTIO_BLK_T_WRITE_ZEROES;
    let known = if zero { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP } else { 0 };
    if flags & !known != 0 {
        return Some(Outcome::Unsupported);
    }
    let most = if zero { MAX_ZEROES_SECTORS } else { MAX_DISCARD_SECTORS };
    let start = sector.checked_mul(SECTOR)?;
    let bytes = u64::from(sectors) * SECTOR;
    if sectors > most || !medium.contains(start, bytes) {
        return None;
    }
    let bytes = usize::try_from(bytes).ok()?;
    if zero {
        medium.zero(start, bytes, flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0).ok()?;
    } else {
        medium.discard(start, bytes).ok()?;
    }
    Some(DONE)
}

#[cfg(test)]
mod tests;
