//! What went over an interface.

use std::sync::Arc;

use crate::statistics::{self, DeviceCounters};

/// Counters of a pair of queues, and those of all interfaces together.
pub struct Tally {
    totals: statistics::Shared,
    own: Arc<DeviceCounters>,
}

impl Tally {
    /// Nothing yet, of a pair of queues of the interface with this place in the configuration.
    pub fn new(index: usize, pair: usize, totals: statistics::Shared) -> Self {
        let own = totals.device(match pair {
            0 => format!("net{index}"),
            _ => format!("net{index}.{pair}"),
        });
        Self { totals, own }
    }

    /// The guest received a frame of so many bytes.
    pub fn received(&self, bytes: usize) {
        self.own.reads.add(1);
        self.own.read_bytes.add(bytes as u64);
        self.totals.net_rx_bytes.add(bytes as u64);
    }

    /// The guest sent a frame of so many bytes.
    pub fn sent(&self, bytes: usize) {
        self.own.writes.add(1);
        self.own.write_bytes.add(bytes as u64);
        self.totals.net_tx_bytes.add(bytes as u64);
    }

    /// A frame did not go through.
    pub fn dropped(&self) {
        self.own.errors.add(1);
        self.totals.net_drops.add(1);
    }

    /// It has to wait for its limit.
    pub fn waits(&self) {
        self.own.waits.add(1);
    }
}
