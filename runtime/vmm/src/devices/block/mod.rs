//! virtio-blk (virtio 1.2, section 5.2) with an exchangeable medium and several queues.
//!
//! What the host has in memory is read by the event loop at once; requests that have to wait for the host's disk are
//! done by the threads of a [`Pool`], and the loop gives them back. `VIRTIO_BLK_F_RO` is a feature and so fixed at boot:
//! a read-only medium answers writes with errors.

mod medium;
mod pool;
mod request;
mod slot;

use std::sync::Arc;
use std::time::Instant;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;

pub use medium::{Medium, MediumError};
pub use pool::Pool;
pub use slot::{Slot, SlotError};

use crate::config::slot_serial;
use crate::rate::Ticket;
use crate::statistics::{self, DeviceCounters};
use crate::virtio::{Activation, BATCH, Busy, Chain, ConfigSpace, Device, F_COMMON, Identity, QueueError};
use pool::{Done, Job};
use request::{Answer, Begun, Outcome};

/// `VIRTIO_ID_BLOCK`.
const ID: u32 = 2;
/// Bytes of the unit in which the device counts, whatever its medium.
const SECTOR: u64 = 512;
/// The most queues.
const MAX_QUEUES: usize = 4;
/// Descriptors of each queue of a device with one, two and more queues: as many in all, for a guest spends memory on
/// each.
const QUEUE_SIZES: [&[u16]; MAX_QUEUES] = [&[256], &[128; 2], &[64; 3], &[64; 4]];
const SEGMENT_BYTES: u32 = 256 << 10;
/// The most bytes of one request: what a guest makes of the longest queue's descriptors and the limit above, so that none
/// holds up the others for long.
const MAX_REQUEST: usize = 254 * SEGMENT_BYTES as usize;
/// 1 GiB.
const MAX_DISCARD_SECTORS: u32 = 2 << 20;
/// 16 MiB: where the host has no quick way, zeroes are written.
const MAX_ZEROES_SECTORS: u32 = 32 << 10;
/// Requests of a device that may wait for the host's disk at a time; more stay in its queues. It bounds what their
/// descriptors take of the host's memory, and is more than what the threads could do at once.
const MAX_IN_FLIGHT: usize = 32;

/// Data of the events of [`pool::Lane::event`] and of the limit's timer; those of the queues are the queues' numbers.
const LANDED: u32 = MAX_QUEUES as u32;
const TURN: u32 = LANDED + 1;

struct Active {
    activation: Activation,
    /// Requests that the pool has.
    in_flight: usize,
    /// Queues in which requests may be left that nobody will kick for.
    held: [bool; MAX_QUEUES],
    /// Which of these goes on first next time, lest one has all the turns.
    first: usize,
}

/// The device of one slot.
pub struct Block {
    slot: Arc<Slot>,
    serial: String,
    limit: Ticket,
    totals: statistics::Shared,
    counters: Arc<DeviceCounters>,
    active: Option<Active>,
}

impl Block {
    /// The device of `slot`, within `limit`.
    pub fn new(slot: Arc<Slot>, limit: Ticket, totals: statistics::Shared) -> Self {
        let serial = slot_serial(slot.number());
        let counters = totals.device(format!("block{}", slot.number()));
        Self { slot, serial, limit, totals, counters, active: None }
    }

    /// What the transport has to know of a device for a guest of so many vCPUs; the capacity is 0.
    pub fn identity(vcpus: u8) -> Identity {
        let features = F_COMMON
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_MQ
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        let queues = usize::from(vcpus).clamp(1, MAX_QUEUES);
        let queue_sizes = QUEUE_SIZES[queues - 1];
        let config = Arc::new(ConfigSpace::new(config(queue_sizes)));
        Identity { kind: ID, features, queue_sizes, required_queues: 1, config }
    }

    /// Serves a queue until it is empty, its turn is over, or something else has to come first.
    fn serve(&self, active: &mut Active, number: usize) -> Result<(), QueueError> {
        let write_back = active.activation.features & 1 << VIRTIO_BLK_F_FLUSH != 0;
        let (Some(queue), Some(held)) =
            (active.activation.queues.get_mut(number), active.held.get_mut(number))
        else {
            return Ok(());
        };
        *held = false;
        if !queue.ready() {
            return Ok(());
        }
        for _ in 0..BATCH {
            // The next request that is done goes on from here.
            if active.in_flight >= MAX_IN_FLIGHT {
                *held = true;
                return queue.notify();
            }
            // The timer goes on from here.
            let Some(turn) = self.limit.turn() else {
                self.counters.waits.add(1);
                *held = true;
                return queue.notify();
            };
            let Some(chain) = queue.pop()? else {
                drop(turn);
                if queue.listen()? {
                    continue;
                }
                return queue.notify();
            };
            turn.spend(request::cost(&chain));
            let (head, began) = (chain.head, Instant::now());
            if let Some(answer) = self.begin(chain, number, write_back, began) {
                self.count(answer.as_ref(), began);
                queue.give_back(head, answer.map_or(0, |answer| answer.bytes))?;
            } else {
                active.in_flight += 1;
            }
        }
        queue.kick_again();
        queue.notify()
    }

    /// The answer, if it is to be had without waiting.
    fn begin(&self, chain: Chain, queue: usize, write_back: bool, began: Instant) -> Option<Option<Answer>> {
        let medium = self.slot.medium();
        match (request::begin(&chain, medium.as_deref(), &self.serial), medium) {
            (Begun::Waits(rest), Some(medium)) => {
                self.slot.lane().submit(Job { medium, chain, rest, write_back, queue, began });
                None
            }
            (Begun::Answered(answer), _) => Some(answer),
            // Nothing waits for no medium.
            (Begun::Waits(_), None) => Some(None),
        }
    }

    /// Gives back what the pool has done.
    fn land(&self, active: &mut Active) -> Result<(), QueueError> {
        let mut touched = [false; MAX_QUEUES];
        for Done { queue, head, answer, began } in self.slot.lane().take() {
            active.in_flight -= 1;
            self.count(answer.as_ref(), began);
            if let (Some(place), Some(touched)) =
                (active.activation.queues.get_mut(queue), touched.get_mut(queue))
            {
                place.give_back(head, answer.map_or(0, |answer| answer.bytes))?;
                *touched = true;
            }
        }
        for (queue, touched) in active.activation.queues.iter_mut().zip(touched) {
            if touched {
                queue.notify()?;
            }
        }
        Ok(())
    }

    fn turn(&self, active: &mut Active, event: u32) -> Result<(), QueueError> {
        match event {
            LANDED => self.land(active)?,
            TURN => drop(self.limit.timer().map(crate::rate::Timer::fired)),
            queue => {
                if let Some(queue) = active.activation.queues.get(queue as usize) {
                    let _ = queue.kick.read();
                }
                return self.serve(active, queue as usize);
            }
        }
        let first = active.first;
        active.first = (first + 1) % active.activation.queues.len().clamp(1, MAX_QUEUES);
        for number in (first..MAX_QUEUES).chain(0..first) {
            if active.held[number] {
                self.serve(active, number)?;
            }
        }
        Ok(())
    }

    fn count(&self, answer: Option<&Answer>, began: Instant) {
        self.counters.latency.add(began.elapsed());
        match answer.map(|answer| answer.outcome) {
            Some(Outcome::Read(bytes)) => {
                self.counters.reads.add(1);
                self.counters.read_bytes.add(bytes as u64);
                self.totals.block_read_bytes.add(bytes as u64);
            }
            Some(Outcome::Written(bytes)) => {
                self.counters.writes.add(1);
                self.counters.write_bytes.add(bytes as u64);
                self.totals.block_write_bytes.add(bytes as u64);
            }
            Some(Outcome::Done | Outcome::Unsupported) => self.counters.others.add(1),
            Some(Outcome::Failed) | None => {
                self.counters.errors.add(1);
                self.totals.block_errors.add(1);
            }
        }
    }
}

/// `struct virtio_blk_config` (5.2.4).
fn config(queue_sizes: &[u16]) -> Vec<u8> {
    // Descriptors of a request beside its header and status: no chain is longer than its queue (2.7.5.3.1).
    let segments = queue_sizes.first().map_or(1, |size| u32::from(*size) - 2);
    let mut config = vec![0; 60];
    let mut put = |at: usize, value: u32| config[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(8, SEGMENT_BYTES);
    put(12, segments);
    put(32, (queue_sizes.len() as u32) << 16); // wce, unused, num_queues
    put(36, MAX_DISCARD_SECTORS);
    put(40, 1); // max_discard_seg
    put(44, 8); // discard_sector_alignment: a page of the host's files
    put(48, MAX_ZEROES_SECTORS);
    put(52, 1); // max_write_zeroes_seg
    put(56, 1); // write_zeroes_may_unmap
    config
}

impl Device for Block {
    fn activate(&mut self, activation: Activation) {
        self.active = Some(Active { activation, in_flight: 0, held: [false; MAX_QUEUES], first: 0 });
    }

    fn deactivate(&mut self) {
        self.active = None;
        self.limit.leave();
        // What is in flight has the driver's buffers.
        self.slot.lane().wait();
        drop(self.slot.lane().take());
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        let number = self.slot.number();
        if self.slot.medium().is_some() {
            return Err(Busy(format!("block slot {number} holds a medium")));
        }
        let Some(mut active) = self.active.take() else { return Ok(Vec::new()) };
        self.slot.lane().wait();
        if let Err(error) = self.land(&mut active) {
            active.activation.interrupt.needs_reset(&error);
            return Err(Busy(format!("the driver of block slot {number} broke its queue")));
        }
        Ok(self.active.insert(active).activation.queue_states())
    }
}

impl MutEventSubscriber for Block {
    fn init(&mut self, ops: &mut EventOps) {
        let Some(active) = &self.active else { return };
        active.activation.watch_queues(ops);
        let landed = Events::with_data(self.slot.lane().event(), LANDED, EventSet::IN);
        let turn = self.limit.timer().map(|timer| Events::with_data(timer, TURN, EventSet::IN));
        for events in [Some(landed), turn].into_iter().flatten() {
            if let Err(error) = ops.add(events) {
                let interrupt = &active.activation.interrupt;
                interrupt.needs_reset(&format_args!("its requests cannot be waited for: {error}"));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        match self.turn(&mut active, events.data()) {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                let _ = ops.remove(Events::empty(self.slot.lane().event()));
                if let Some(timer) = self.limit.timer() {
                    let _ = ops.remove(Events::empty(timer));
                }
                self.limit.leave();
                active.activation.fail(ops, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
