//! Holds vCPUs out of the guest while the VM is paused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A gate that each vCPU passes before it enters the guest.
pub struct Gate {
    closed: AtomicBool,
    inside: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// An open gate with `vcpus` inside.
    pub fn new(vcpus: usize) -> Self {
        Self { closed: AtomicBool::new(false), inside: Mutex::new(vcpus), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on at once when open; otherwise says that a vCPU is out, and waits.
    pub fn pass(&self) {
        if !self.is_closed() {
            return;
        }
        let mut inside = self.lock();
        *inside -= 1;
        self.changed.notify_all();
        while self.is_closed() {
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        *inside += 1;
    }

    /// A vCPU will not come again.
    pub fn leave(&self) {
        let mut inside = self.lock();
        *inside = inside.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Stops what comes from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets all go on.
    pub fn open(&self) {
        let _inside = self.lock();
        self.closed.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits up to `patience` until no vCPU is inside; says whether that is so.
    pub fn wait_empty(&self, patience: Duration) -> bool {
        let inside = self.lock();
        let waited = self.changed.wait_timeout_while(inside, patience, |inside| *inside > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_closed_gate_empties_and_opens_again() {
        let gate = Arc::new(Gate::new(2));
        gate.close();
        assert!(!gate.wait_empty(Duration::from_millis(1)));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                std::thread::spawn(move || gate.pass())
            })
            .collect();
        while !gate.wait_empty(Duration::from_millis(10)) {}
        gate.open();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!gate.wait_empty(Duration::ZERO));
        gate.leave();
        gate.leave();
        assert!(gate.wait_empty(Duration::ZERO));
    }
}
