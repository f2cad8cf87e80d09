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
    /// So many bytes of the disk, into guest memory.
    Read(usize),
    /// So many bytes to the disk.
    Written(usize),
    /// Whatever else was asked for.
    Done,
    /// `VIRTIO_BLK_S_IOERR`.
    Failed,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported,
}

/// What of the request's writable part was written, with its status byte.
pub struct Answer {
    /// For the used ring.
    pub bytes: u32,
    /// The status.
    pub outcome: Outcome,
}

/// What is left to do of a request that has been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    header: Header,
    /// Bytes that have been read.
    done: usize,
}

/// A request that has been looked at.
pub enum Begun {
    /// It is done. None when there is no room for even a status.
    Answered(Option<Answer>),
    /// The host's disk has to be waited for, see [`finish`].
    Waits(Rest),
}

/// Does what can be done of the request in `chain` without waiting.
pub fn begin(chain: &Chain, medium: Option<&Medium>, serial: &str) -> Begun {
    let Some(room) = chain.writable_bytes().checked_sub(1) else { return Begun::Answered(None) };
    let answered = |outcome, filled| Begun::Answered(answer(chain, outcome, filled));
    let Some(header) = Header::read(chain) else { return answered(Outcome::Failed, 0) };
    let done = match (header.kind, medium) {
        (VIRTIO_BLK_T_GET_ID, _) => {
            let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
            id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
            let done = room == id.len() && chain.write(0, &id);
            return if done { answered(Outcome::Done, id.len()) } else { answered(Outcome::Failed, 0) };
        }
        (
            VIRTIO_BLK_T_IN
            | VIRTIO_BLK_T_OUT
            | VIRTIO_BLK_T_FLUSH
            | VIRTIO_BLK_T_DISCARD
            | VIRTIO_BLK_T_WRITE_ZEROES,
            None,
        ) => return answered(Outcome::Failed, 0),
        (VIRTIO_BLK_T_IN, Some(medium)) => {
            let Some(start) = start(medium, header.sector, room) else { return answered(Outcome::Failed, 0) };
            let done = medium.read_at_once(start, room, |at, bytes| chain.writable(at, bytes));
            if done == room {
                return answered(Outcome::Read(room), room);
            }
            done
        }
        (
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES,
            Some(_),
        ) => 0,
        _ => return answered(Outcome::Unsupported, 0),
    };
    Begun::Waits(Rest { header, done })
}

/// Does the rest of a request, and waits for the host's disk. None when there is no room for even a status.
pub fn finish(chain: &Chain, medium: &Medium, rest: &Rest, write_back: bool) -> Option<Answer> {
    let room = chain.writable_bytes().checked_sub(1)?;
    let Rest { header, done } = *rest;
    let data = chain.readable_bytes().saturating_sub(HEADER);
    let writable = Some(medium).filter(|medium| !medium.read_only());
    let outcome = match header.kind {
        VIRTIO_BLK_T_IN => start(medium, header.sector, room).and_then(|start| {
            let rest = room.checked_sub(done)?;
            medium.read(start + done as u64, rest, |at, bytes| chain.writable(done + at, bytes)).ok()?;
            Some(Outcome::Read(room))
        }),
        VIRTIO_BLK_T_OUT => writable.and_then(|medium| {
            let start = start(medium, header.sector, data)?;
            medium.write(start, data, |at, bytes| chain.readable(HEADER + at, bytes)).ok()?;
            if !write_back {
                medium.flush().ok()?;
            }
            Some(Outcome::Written(data))
        }),
        VIRTIO_BLK_T_FLUSH => medium.flush().ok().map(|()| Outcome::Done),
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            writable.and_then(|medium| clear(chain, medium, header.kind, data))
        }
        _ => Some(Outcome::Unsupported),
    };
    let filled = if let Some(Outcome::Read(bytes)) = outcome { bytes } else { 0 };
    answer(chain, outcome.unwrap_or(Outcome::Failed), filled)
}

/// Writes the status. `filled` bytes of the writable part before it are.
fn answer(chain: &Chain, outcome: Outcome, filled: usize) -> Option<Answer> {
    let status = match outcome {
        Outcome::Read(_) | Outcome::Written(_) | Outcome::Done => VIRTIO_BLK_S_OK,
        Outcome::Failed => VIRTIO_BLK_S_IOERR,
        Outcome::Unsupported => VIRTIO_BLK_S_UNSUPP,
    };
    let status_at = chain.writable_bytes().checked_sub(1)?;
    chain.write(status_at, &[status as u8]).then_some(())?;
    // The used length counts from the start of the writable part; its status byte is the last.
    let bytes = if filled == status_at { filled + 1 } else { filled };
    Some(Answer { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), outcome })
}

/// What the request in `chain` costs of a limit of bytes: as much as it may move.
pub fn cost(chain: &Chain) -> u64 {
    let data = chain.readable_bytes().saturating_sub(HEADER).max(chain.writable_bytes().saturating_sub(1));
    data.min(MAX_REQUEST) as u64
}

#[derive(Clone, Copy, Debug)]
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

/// The byte at which a transfer of `bytes` bytes starts, if the disk has them all.
fn start(medium: &Medium, sector: u64, bytes: usize) -> Option<u64> {
    let start = sector.checked_mul(SECTOR)?;
    let good =
        (bytes as u64).is_multiple_of(SECTOR) && bytes <= MAX_REQUEST && medium.contains(start, bytes as u64);
    good.then_some(start)
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
    Some(Outcome::Done)
}

#[cfg(test)]
mod tests;
