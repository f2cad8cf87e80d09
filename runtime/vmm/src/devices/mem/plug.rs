//! Where the guest's memory is asked to grow and shrink.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::blocks::{BLOCK_BYTES, Backing, Blocks};
use crate::log::Budget;
use crate::memory::Region;
use crate::virtio::{Busy, ConfigSpace, Interrupt};

/// Offsets in `struct virtio_mem_config` of what changes: usable_region_size, plugged_size, requested_size.
const CHANGING: usize = 32;

/// A host or a KVM that does not do as it is told is logged so many times.
const COMPLAINTS: u32 = 5;

/// The region, with what cannot be done logged.
pub(super) struct Logged {
    region: Region,
    budget: Budget,
}

impl Backing for Logged {
    fn open(&mut self, slot: usize) -> bool {
        let outcome = self.region.open(slot);
        self.done("giving", outcome)
    }

    fn close(&mut self, slot: usize) -> bool {
        let outcome = self.region.close(slot);
        self.done("taking", outcome)
    }

    fn discard(&mut self, bytes: Range<u64>) {
        let outcome = self.region.discard(bytes);
        self.done("discarding", outcome);
    }
}

impl Logged {
    fn done(&self, what: &str, outcome: Result<(), crate::memory::HotplugError>) -> bool {
        if let Err(error) = &outcome {
            self.budget.line(format_args!("{what} pluggable memory: {error}"));
        }
        outcome.is_ok()
    }
}

/// The device's state, shared by the driver's requests and the host's.
pub struct Plug {
    blocks: Mutex<Blocks<Logged>>,
    changed: Condvar,
    config: Arc<ConfigSpace>,
    interrupt: Interrupt,
}

impl Plug {
    /// All of `region`, of which the guest is asked to have `requested` bytes.
    pub fn new(region: Region, requested: u64, interrupt: Interrupt) -> Self {
        let (start, bytes) = (region.start(), region.bytes());
        let mut blocks = Blocks::new(Logged { region, budget: Budget::new(COMPLAINTS) }, start, bytes);
        blocks.request(requested);
        // block_size, node_id and padding, addr, region_size; then what changes.
        let mut config = Vec::new();
        for field in [BLOCK_BYTES, 0, start, bytes] {
            config.extend(field.to_le_bytes());
        }
        config.extend(changing(&blocks));
        let config = Arc::new(ConfigSpace::new(config));
        Self { blocks: Mutex::new(blocks), changed: Condvar::new(), config, interrupt }
    }

    pub(super) fn config(&self) -> Arc<ConfigSpace> {
        Arc::clone(&self.config)
    }

    fn lock(&self) -> MutexGuard<'_, Blocks<Logged>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, blocks: &Blocks<Logged>) {
        self.config.update(CHANGING, &changing(blocks));
    }

    /// Does what a driver asks for.
    pub(super) fn with<T>(&self, serve: impl FnOnce(&mut Blocks<Logged>) -> T) -> T {
        let mut blocks = self.lock();
        let answer = serve(&mut blocks);
        self.publish(&blocks);
        self.changed.notify_all();
        answer
    }

    /// The most bytes that can be plugged.
    pub fn limit(&self) -> u64 {
        self.lock().region_bytes()
    }

    /// Bytes that are plugged.
    pub fn plugged(&self) -> u64 {
        self.lock().plugged_bytes()
    }

    /// Has the driver of a clone, whose template was asked to have nothing, look at the configuration if the clone is asked
    /// for more.
    pub fn announce(&self) {
        if self.lock().requested() != 0 {
            self.interrupt.signal_config();
        }
    }

    /// Whether a snapshot can be made.
    ///
    /// # Errors
    /// [`Busy`] when the guest has memory of the region, or is asked to.
    pub(super) fn savable(&self) -> Result<(), Busy> {
        let blocks = self.lock();
        match (blocks.plugged_bytes() >> 20, blocks.requested() >> 20) {
            (0, 0) => Ok(()),
            (0, mib) => Err(Busy(format!("the guest is asked to plug {mib} MiB of memory"))),
            (mib, _) => Err(Busy(format!("{mib} MiB of memory are plugged"))),
        }
    }

    /// Asks the guest to have `bytes` bytes plugged, and waits until it has, at most for `patience`; answers how many
    /// it has then.
    pub fn resize(&self, bytes: u64, patience: Duration) -> u64 {
        let mut blocks = self.lock();
        blocks.request(bytes);
        self.publish(&blocks);
        self.interrupt.signal_config();
        let wanted = blocks.requested();
        let end = Instant::now() + patience;
        loop {
            let plugged = blocks.plugged_bytes();
            let left = end.saturating_duration_since(Instant::now());
            // Somebody else may ask for another size meanwhile.
            if plugged == wanted || blocks.requested() != wanted || left.is_zero() {
                return plugged;
            }
            blocks = self.changed.wait_timeout(blocks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn changing(blocks: &Blocks<Logged>) -> Vec<u8> {
    [blocks.usable(), blocks.plugged_bytes(), blocks.requested()].map(u64::to_le_bytes).concat()
}
