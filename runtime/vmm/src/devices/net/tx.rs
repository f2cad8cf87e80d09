//! Frames of the guest.

use std::io;
use std::os::fd::BorrowedFd;

use super::tally::Tally;
use super::{HEADER, MAX_FRAME};
use crate::rate::Ticket;
use crate::sys;
use crate::virtio::{QueueError, VirtQueue};

/// An Ethernet header.
const SHORTEST: usize = 14;

/// Where sending stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Pause {
    /// The guest has no more.
    Empty,
    /// The limit does not let more pass now.
    Limit,
    /// Its turn is over.
    Turn,
}

/// Sends at most `batch` frames.
///
/// # Errors
/// [`QueueError`].
pub fn serve(
    queue: &mut VirtQueue,
    tap: BorrowedFd<'_>,
    limit: &Ticket,
    tally: &Tally,
    batch: usize,
) -> Result<Pause, QueueError> {
    for _ in 0..batch {
        let Some(turn) = limit.turn() else {
            tally.waits();
            return Ok(Pause::Limit);
        };
        let Some(chain) = queue.pop()? else {
            drop(turn);
            if queue.listen()? {
                continue;
            }
            return Ok(Pause::Empty);
        };
        let bytes = chain.readable_bytes();
        // What is too long for a frame is not sent.
        turn.spend(bytes.clamp(HEADER, HEADER + MAX_FRAME).saturating_sub(HEADER) as u64);
        let sent = if (HEADER + SHORTEST..=HEADER + MAX_FRAME).contains(&bytes) {
            let slices = chain.readable(0, bytes);
            loop {
                match sys::write(tap, &slices) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => break result.is_ok(),
                }
            }
        } else {
            false
        };
        match sent {
            true => tally.sent(bytes - HEADER),
            false => tally.dropped(),
        }
        queue.give_back(chain.head, 0)?;
    }
    Ok(Pause::Turn)
}
