//! A virtqueue whose driver is this process and whose device is the server: what the guest asks in its own queue is
//! asked again here, in memory that the server may see.

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};

use super::bounce::Bounce;
use super::pages::Place;
use crate::virtio::{Chain, VirtQueue};

/// Descriptors of each ring, two for each request.
pub const RING_SIZE: u16 = 256;
/// Bytes that a ring takes: descriptors, available ring and used ring (virtio 1.2, 2.7), each with pages of its own.
pub const RING_BYTES: u64 = 3 * 4096;
const AVAILABLE: u64 = 4096;
const USED: u64 = 2 * 4096;

/// The most bytes of a request and its answer: Linux asks for 1 MiB of data at most, and some headers.
pub const MAX_REQUEST: usize = 2 << 20;

/// The server, or the driver, breaks the rules.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// It answers what it was not asked.
    #[error("its server answered request {0}, which it has not")]
    Unasked(u32),
    /// It says that it wrote more than there is room for.
    #[error("its server answered {said} bytes where there is room for {room}")]
    TooLong {
        /// What it said.
        said: u32,
        /// What there is.
        room: usize,
    },
    /// More answers than requests.
    #[error("its server answered more requests than it has")]
    Overrun,
    /// More than this device takes.
    #[error("a request of {0} bytes; the most is {MAX_REQUEST}")]
    TooLarge(usize),
    /// Never: all addresses are this process's own.
    #[error("the memory shared with its server: {0}")]
    Memory(#[from] GuestMemoryError),
    /// The guest's queue.
    #[error(transparent)]
    Queue(#[from] crate::virtio::QueueError),
}

/// A request that the server has.
struct Flight {
    chain: Chain,
    place: Place,
}

/// One queue.
pub struct Shadow {
    base: GuestAddress,
    next_available: u16,
    next_used: u16,
    flights: Vec<Option<Flight>>,
}

impl Shadow {
    /// Queue `number` of those in the shared memory, which is all zeroes there.
    pub fn new(number: usize) -> Self {
        let flights = (0..RING_SIZE / 2).map(|_| None).collect();
        Self { base: GuestAddress(number as u64 * RING_BYTES), next_available: 0, next_used: 0, flights }
    }

    /// Addresses of descriptors, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [0, AVAILABLE, USED].map(|offset| self.at(offset).raw_value())
    }

    fn at(&self, offset: u64) -> GuestAddress {
        self.base.unchecked_add(offset)
    }

    /// Passes on what the guest has made available, as far as there is room; true if the server has to be told.
    ///
    /// # Errors
    /// [`ShadowError`] when the guest breaks the rules.
    pub fn ask(&mut self, guest: &mut VirtQueue, bounce: &mut Bounce) -> Result<bool, ShadowError> {
        let mut asked = false;
        loop {
            // The rest has its turn when an answer has made room.
            let Some(free) = self.flights.iter().position(Option::is_none) else { return Ok(asked) };
            let Some(chain) = guest.pop()? else {
                if guest.listen()? {
                    continue;
                }
                return Ok(asked);
            };
            let bytes = chain.readable_bytes().saturating_add(chain.writable_bytes());
            if bytes > MAX_REQUEST {
                return Err(ShadowError::TooLarge(bytes));
            }
            if bytes == 0 {
                // Nothing is asked, and nothing can be answered.
                guest.give_back(chain.head, 0)?;
                guest.notify()?;
                continue;
            }
            let Some(place) = bounce.take(bytes) else {
                guest.unpop();
                return Ok(asked);
            };
            self.pass_on(free as u16, Flight { chain, place }, bounce)?;
            asked = true;
        }
    }

    fn pass_on(&mut self, number: u16, flight: Flight, bounce: &Bounce) -> Result<(), ShadowError> {
        let (readable, writable) = (flight.chain.readable_bytes(), flight.chain.writable_bytes());
        let start = Bounce::address(&flight.place, 0);
        let mut address = start;
        for from in flight.chain.readable(0, readable) {
            if let Some(to) = bounce.slice(address, from.len()) {
                from.copy_to_volatile_slice(to);
            }
            address += from.len() as u64;
        }
        let memory = bounce.memory();
        let put = |index: u16, descriptor: Descriptor| {
            let place = self.at(u64::from(index) * size_of::<Descriptor>() as u64);
            memory.write_obj(RawDescriptor::from(descriptor), place)
        };
        let (first, second) = (2 * number, 2 * number + 1);
        let (next, write) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
        let answer = Descriptor::new(start + readable as u64, writable as u32, write, 0);
        match (readable, writable) {
            (0, _) => put(first, answer)?,
            (_, 0) => put(first, Descriptor::new(start, readable as u32, 0, 0))?,
            _ => {
                put(second, answer)?;
                put(first, Descriptor::new(start, readable as u32, next, second))?;
            }
        }
        let slot = u64::from(self.next_available % RING_SIZE);
        memory.write_obj(first.to_le(), self.at(AVAILABLE + 4 + 2 * slot))?;
        self.next_available = self.next_available.wrapping_add(1);
        // Seen by the server only after all that it leads to.
        memory.store(self.next_available.to_le(), self.at(AVAILABLE + 2), Ordering::Release)?;
        self.flights[usize::from(number)] = Some(flight);
        Ok(())
    }

    /// Gives the guest what the server has answered.
    ///
    /// # Errors
    /// [`ShadowError`] when the server breaks the rules.
    pub fn answer(&mut self, guest: &mut VirtQueue, bounce: &mut Bounce) -> Result<(), ShadowError> {
        let end = u16::from_le(bounce.memory().load(self.at(USED + 2), Ordering::Acquire)?);
        if usize::from(end.wrapping_sub(self.next_used)) > self.flights.len() {
            return Err(ShadowError::Overrun);
        }
        if end == self.next_used {
            return Ok(());
        }
        while self.next_used != end {
            let slot = u64::from(self.next_used % RING_SIZE);
            let [head, said]: [u32; 2] = bounce.memory().read_obj(self.at(USED + 4 + 8 * slot))?;
            self.next_used = self.next_used.wrapping_add(1);
            let (head, said) = (u32::from_le(head), u32::from_le(said));
            let flight = self.flights.get_mut(head as usize / 2).filter(|_| head.is_multiple_of(2));
            let flight = flight.and_then(Option::take).ok_or(ShadowError::Unasked(head))?;
            let room = flight.chain.writable_bytes();
            if said as usize > room {
                return Err(ShadowError::TooLong { said, room });
            }
            let mut address = Bounce::address(&flight.place, flight.chain.readable_bytes());
            for to in flight.chain.writable(0, said as usize) {
                if let Some(from) = bounce.slice(address, to.len()) {
                    from.copy_to_volatile_slice(to);
                }
                address += to.len() as u64;
            }
            bounce.give_back(flight.place);
            guest.give_back(flight.chain.head, said)?;
        }
        Ok(guest.notify()?)
    }
}

#[cfg(test)]
mod tests;
