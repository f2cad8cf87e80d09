//! Counters that all threads add to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::control::{self, Mark};

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Replaces the value, for what goes up and down.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When the steps of the start were done.
#[derive(Debug, Default)]
pub struct Marks(Mutex<Vec<Mark>>);

impl Marks {
    /// A step is done.
    pub fn add(&self, step: &str) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push(Mark { step: step.to_owned(), micros });
    }

    /// Those so far.
    pub fn get(&self) -> Vec<Mark> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See [`control::Statistics`] for each counter.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub exits_io: Counter,
    pub exits_mmio: Counter,
    pub exits_interrupted: Counter,
    pub exits_other: Counter,
    pub block_read_bytes: Counter,
    pub block_write_bytes: Counter,
    pub block_errors: Counter,
    pub net_rx_bytes: Counter,
    pub net_tx_bytes: Counter,
    pub net_drops: Counter,
    pub vsock_connections: Counter,
    pub marks: Marks,
}

/// The VM's counters.
pub type Shared = Arc<Counters>;

impl Counters {
    /// The counters' values now.
    pub fn snapshot(&self) -> control::Statistics {
        let exits = [
            ("io", &self.exits_io),
            ("mmio", &self.exits_mmio),
            ("interrupted", &self.exits_interrupted),
            ("other", &self.exits_other),
        ];
        control::Statistics {
            exits: exits.into_iter().map(|(name, counter)| (name.to_owned(), counter.get())).collect(),
            block_read_bytes: self.block_read_bytes.get(),
            block_write_bytes: self.block_write_bytes.get(),
            block_errors: self.block_errors.get(),
            net_rx_bytes: self.net_rx_bytes.get(),
            net_tx_bytes: self.net_tx_bytes.get(),
            net_drops: self.net_drops.get(),
            vsock_connections: self.vsock_connections.get(),
            marks: self.marks.get(),
        }
    }
}
