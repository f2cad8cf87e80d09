//! Frames for the guest.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;

use super::tally::Tally;
use super::{HEADER, QUEUE_SIZE};
use crate::rate::Ticket;
use crate::sys;
use crate::virtio::{Chain, QueueError, VirtQueue};

/// `num_buffers` is the last field of `struct virtio_net_hdr_mrg_rxbuf`.
const NUM_BUFFERS_AT: usize = 10;

/// Where receiving stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Pause {
    /// The tap has no more.
    TapEmpty,
    /// The guest has no more buffers.
    NoBuffers,
    /// The limit does not let more pass now.
    Limit,
    /// Its turn is over.
    Turn,
}

/// The receiving side of one activation.
pub struct Receiver {
    /// Buffers taken from the queue and not yet used, so that a long frame finds enough of them.
    ready: VecDeque<Chain>,
    ready_bytes: usize,
    /// A frame may be spread over several buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    mergeable: bool,
    /// The longest frame with its header.
    longest: usize,
    /// Where the rest of a frame goes that is longer than the guest's buffer.
    overflow: Vec<u8>,
}

impl Receiver {
    /// A receiver of frames up to `longest` bytes, their header included.
    pub fn new(mergeable: bool, longest: usize) -> Self {
        let overflow = if mergeable { Vec::new() } else { vec![0; longest] };
        Self { ready: VecDeque::new(), ready_bytes: 0, mergeable, longest, overflow }
    }

    /// How many buffers it has taken ahead of the frames that will fill them: the last ones of the queue.
    pub fn taken(&self) -> u16 {
        self.ready.len() as u16
    }

    /// Takes buffers from the queue until there are enough for the longest frame.
    fn gather(&mut self, queue: &mut VirtQueue) -> Result<Option<Pause>, QueueError> {
        for _ in 0..2 * QUEUE_SIZE {
            let enough =
                if self.mergeable { self.ready_bytes >= self.longest } else { !self.ready.is_empty() };
            if enough {
                return Ok(None);
            }
            match queue.pop()? {
                // No place for even a header: it goes back, lest it stop every later frame.
                Some(chain) if chain.writable_bytes() < HEADER => queue.give_back(chain.head, 0)?,
                Some(_) if self.ready.len() == usize::from(QUEUE_SIZE) => {
                    return Err(QueueError::Overcommitted);
                }
                Some(chain) => {
                    self.ready_bytes += chain.writable_bytes();
                    self.ready.push_back(chain);
                }
                None if queue.listen()? => {}
                None => return Ok(Some(Pause::NoBuffers)),
            }
        }
        Ok(Some(Pause::Turn))
    }

    /// Takes at most `batch` frames.
    ///
    /// # Errors
    /// [`QueueError`]
    pub fn serve(
        &mut self,
        queue: &mut VirtQueue,
        tap: BorrowedFd<'_>,
        limit: &Ticket,
        tally: &Tally,
        batch: usize,
    ) -> Result<Pause, QueueError> {
        for _ in 0..batch {
            if let Some(pause) = self.gather(queue)? {
                return Ok(pause);
            }
            let Some(turn) = limit.turn() else {
                tally.waits();
                return Ok(Pause::Limit);
            };
            match self.read(tap) {
                Ok(bytes) if bytes >= HEADER => {
                    turn.spend((bytes - HEADER) as u64);
                    self.deliver(queue, bytes, tally)?;
                }
                Ok(_) => tally.dropped(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EAGAIN, and what a tap says whose interface is down or gone: its next event tells.
                Err(_) => return Ok(Pause::TapEmpty),
            }
        }
        Ok(Pause::Turn)
    }

    fn read(&mut self, tap: BorrowedFd<'_>) -> io::Result<usize> {
        let chains = if self.mergeable { self.ready.len() } else { 1 };
        let mut slices: Vec<VolatileSlice<'_>> = Vec::new();
        for chain in self.ready.iter().take(chains) {
            slices.extend(chain.writable(0, usize::MAX));
        }
        slices.push(VolatileSlice::from(self.overflow.as_mut_slice()));
        sys::read(tap, &slices)
    }

    /// Gives back the buffers that a frame of `bytes` bytes has filled.
    fn deliver(&mut self, queue: &mut VirtQueue, bytes: usize, tally: &Tally) -> Result<(), QueueError> {
        let room = if self.mergeable {
            self.ready_bytes
        } else {
            self.ready.front().map_or(0, Chain::writable_bytes)
        };
        let first = match self.ready.front() {
            // A frame is never cut short.
            Some(first) if bytes <= room => first,
            _ => {
                tally.dropped();
                return Ok(());
            }
        };
        let mut left = bytes;
        let needed = self.ready.iter().take_while(|chain| {
            let more = left > 0;
            left = left.saturating_sub(chain.writable_bytes());
            more
        });
        let buffers = needed.count();
        first.write(NUM_BUFFERS_AT, &(buffers as u16).to_le_bytes());
        let mut left = bytes;
        for chain in self.ready.drain(..buffers) {
            let filled = left.min(chain.writable_bytes());
            left -= filled;
            self.ready_bytes -= chain.writable_bytes();
            queue.give_back(chain.head, filled as u32)?;
        }
        tally.received(bytes - HEADER);
        Ok(())
    }
}
