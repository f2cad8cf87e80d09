//! Counters that all threads add to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// How many of something took how long: number `n` counts what took less than 2^`n` microseconds and no less than half
/// of that, and the last one all that took longer.
#[derive(Debug, Default)]
pub struct Histogram([Counter; LATENCIES]);

/// Up to 2^22 µs, which is four seconds, and beyond.
const LATENCIES: usize = 24;

impl Histogram {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let bits = (u128::BITS - took.as_micros().leading_zeros()) as usize;
        if let Some(counter) = self.0.get(bits.min(LATENCIES - 1)) {
            counter.add(1);
        }
    }

    fn values(&self) -> Vec<u64> {
        self.0.iter().map(Counter::get).collect()
    }
}

/// See [`control::DeviceStatistics`] for each counter.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct DeviceCounters {
    name: String,
    pub reads: Counter,
    pub read_bytes: Counter,
    pub writes: Counter,
    pub write_bytes: Counter,
    pub others: Counter,
    pub errors: Counter,
    pub waits: Counter,
    pub latency: Histogram,
}

impl DeviceCounters {
    fn snapshot(&self) -> control::DeviceStatistics {
        control::DeviceStatistics {
            name: self.name.clone(),
            reads: self.reads.get(),
            read_bytes: self.read_bytes.get(),
            writes: self.writes.get(),
            write_bytes: self.write_bytes.get(),
            others: self.others.get(),
            errors: self.errors.get(),
            waits: self.waits.get(),
            latency_us: self.latency.values(),
        }
    }
}

/// When the steps of the start were done.
#[derive(Debug, Default)]
pub struct Marks(Mutex<Vec<Mark>>);

impl Marks {
    /// A step is done.
    pub fn add(&self, step: &str) {
        let mark = Mark { step: step.to_owned(), micros: control::monotonic_micros() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
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
    pub balloon_reported_bytes: Counter,
    devices: Mutex<Vec<Arc<DeviceCounters>>>,
    pub marks: Marks,
}

/// The VM's counters.
pub type Shared = Arc<Counters>;

impl Counters {
    /// Counters of one more device.
    pub fn device(&self, name: String) -> Arc<DeviceCounters> {
        let device = Arc::new(DeviceCounters { name, ..DeviceCounters::default() });
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&device));
        device
    }

    /// The counters' values now; of the memory they know nothing.
    pub fn snapshot(&self) -> control::Statistics {
        let exits = [
            ("io", &self.exits_io),
            ("mmio", &self.exits_mmio),
            ("interrupted", &self.exits_interrupted),
            ("other", &self.exits_other),
        ];
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        control::Statistics {
            exits: exits.into_iter().map(|(name, counter)| (name.to_owned(), counter.get())).collect(),
            block_read_bytes: self.block_read_bytes.get(),
            block_write_bytes: self.block_write_bytes.get(),
            block_errors: self.block_errors.get(),
            net_rx_bytes: self.net_rx_bytes.get(),
            net_tx_bytes: self.net_tx_bytes.get(),
            net_drops: self.net_drops.get(),
            vsock_connections: self.vsock_connections.get(),
            balloon_reported_bytes: self.balloon_reported_bytes.get(),
            memory_mib: 0,
            devices: devices.iter().map(|device| device.snapshot()).collect(),
            marks: self.marks.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_counted_by_powers_of_two() {
        let counters = Counters::default();
        let device = counters.device("block3".into());
        for micros in [0, 1, 2, 3, 4, 1023, 1024, 1 << 22, u64::MAX] {
            device.latency.add(Duration::from_micros(micros));
        }
        let told = counters.snapshot().devices;
        let mut expected = vec![0; LATENCIES];
        for (index, count) in [(0, 1), (1, 1), (2, 2), (3, 1), (10, 1), (11, 1), (23, 2)] {
            expected[index] = count;
        }
        assert_eq!((told[0].name.as_str(), &told[0].latency_us), ("block3", &expected));
    }
}
