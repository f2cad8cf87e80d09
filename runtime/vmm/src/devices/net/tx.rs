//! Frames of the guest.

use std::io;
use std::os::fd::BorrowedFd;

use super::{HEADER, MAX_FRAME};
use crate::statistics::Counters;
use crate::sys;
use crate::virtio::{QueueError, VirtQueue};

/// An Ethernet header.
const SHORTEST: usize = 14;

/// Sends at most `batch` frames; true when its turn was over before the queue was empty.
///
/// # Errors
/// [`QueueError`].
pub fn serve(
    queue: &mut VirtQueue,
    tap: BorrowedFd<'_>,
    counters: &Counters,
    batch: usize,
) -> Result<bool, QueueError> {
    for _ in 0..batch {
        let Some(chain) = queue.pop()? else {
            if queue.listen()? {
                continue;
            }
            return Ok(false);
        };
        let bytes = chain.readable_bytes();
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
            true => counters.net_tx_bytes.add((bytes - HEADER) as u64),
            false => counters.net_drops.add(1),
        }
        queue.give_back(chain.head, 0)?;
    }
    Ok(true)
}
