//! virtio-blk (virtio 1.2, section 5.2) with an exchangeable medium.
//!
//! `VIRTIO_BLK_F_RO` is a feature and so fixed at boot: a read-only medium answers writes with errors.

mod medium;
mod request;
mod slot;

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_queue::QueueState;

pub use medium::{Medium, MediumError};
pub use slot::{Slot, SlotError};

use crate::config::slot_serial;
use crate::statistics;
use crate::virtio::{Activation, Busy, ConfigSpace, Device, F_COMMON, Identity, QueueError};
use request::Outcome;

/// `VIRTIO_ID_BLOCK`.
const ID: u32 = 2;
/// Bytes of the unit in which the device counts, whatever its medium.
const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// Descriptors of a request beside its header and status.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
const SEGMENT_BYTES: u32 = 256 << 10;
/// The most bytes of one request: what the two limits above allow, so that none holds up the others for long.
const MAX_REQUEST: usize = SEGMENTS as usize * SEGMENT_BYTES as usize;
/// 1 GiB.
const MAX_DISCARD_SECTORS: u32 = 2 << 20;
/// 16 MiB: where the host has no quick way, zeroes are written.
const MAX_ZEROES_SECTORS: u32 = 32 << 10;

/// The device of one slot.
pub struct Block {
    slot: Arc<Slot>,
    serial: String,
    counters: statistics::Shared,
    active: Option<Activation>,
}

impl Block {
    /// The device of `slot`.
    pub fn new(slot: Arc<Slot>, counters: statistics::Shared) -> Self {
        let serial = slot_serial(slot.number());
        Self { slot, serial, counters, active: None }
    }

    /// What the transport has to know; the capacity is 0.
    pub fn identity() -> Identity {
        let features = F_COMMON
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        let config = Arc::new(ConfigSpace::new(config()));
        Identity { kind: ID, features, queue_sizes: &[QUEUE_SIZE], config }
    }

    fn serve(&self, active: &mut Activation) -> Result<(), QueueError> {
        let write_back = active.features & 1 << VIRTIO_BLK_F_FLUSH != 0;
        let Some(queue) = active.queues.first_mut() else { return Ok(()) };
        queue.serve(|chain| {
            let medium = self.slot.medium();
            let answer = request::serve(chain, medium.as_deref(), &self.serial, write_back);
            self.count(answer.as_ref().map(|answer| answer.outcome));
            answer.map_or(0, |answer| answer.bytes)
        })
    }

    fn count(&self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Ok { read, written }) => {
                self.counters.block_read_bytes.add(read as u64);
                self.counters.block_write_bytes.add(written as u64);
            }
            Some(Outcome::Unsupported) => {}
            Some(Outcome::Failed) | None => self.counters.block_errors.add(1),
        }
    }
}

/// `struct virtio_blk_config` (5.2.4).
fn config() -> Vec<u8> {
    let mut config = vec![0; 60];
    let mut put = |at: usize, value: u32| config[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(8, SEGMENT_BYTES);
    put(12, SEGMENTS);
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
        self.active = Some(activation);
    }

    fn deactivate(&mut self) {
        self.active = None;
    }

    fn save(&self) -> Result<Vec<QueueState>, Busy> {
        if self.slot.medium().is_some() {
            return Err(Busy(format!("block slot {} holds a medium", self.slot.number())));
        }
        Ok(self.active.as_ref().map(Activation::queue_states).unwrap_or_default())
    }
}

impl MutEventSubscriber for Block {
    fn init(&mut self, ops: &mut EventOps) {
        if let Some(active) = &self.active {
            active.watch_queues(ops);
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        active.queues.iter().for_each(|queue| drop(queue.kick.read()));
        match self.serve(&mut active) {
            Ok(()) => self.active = Some(active),
            Err(error) => active.fail(ops, &error),
        }
    }
}
