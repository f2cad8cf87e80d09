//! Rate limits: what several devices of a VM may do together.
//!
//! Nobody waits in a loop. A device that may not go on leaves its work in the driver's queue, and its timer fires when
//! its turn has come. Devices that wait have their turns in the order in which they came, one piece of work each.

mod bucket;
mod timer;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::RateLimit;
use bucket::Bucket;
pub use timer::Timer;

#[derive(Debug)]
struct State {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Of those who wait. Only the first one's is set.
    waiting: VecDeque<Arc<Timer>>,
}

impl State {
    fn wait(&mut self, now: Instant) -> Duration {
        let buckets = [&mut self.operations, &mut self.bytes].into_iter().flatten();
        buckets.map(|bucket| bucket.wait(now)).max().unwrap_or_default()
    }

    /// Sets the timer of whoever is next.
    fn call_next(&mut self, now: Instant) {
        let wait = self.wait(now);
        if let Some(first) = self.waiting.front() {
            first.set(wait);
        }
    }

    fn place(&self, timer: &Arc<Timer>) -> Option<usize> {
        self.waiting.iter().position(|waiting| Arc::ptr_eq(waiting, timer))
    }
}

/// A limit that tickets share.
#[derive(Debug)]
pub struct Limiter(Mutex<State>);

impl Limiter {
    /// None when `limit` limits nothing.
    pub fn new(limit: RateLimit) -> Option<Arc<Self>> {
        if limit == RateLimit::default() {
            return None;
        }
        let now = Instant::now();
        let bucket = |rate: Option<_>| rate.map(|rate| Bucket::new(rate, now));
        let (operations, bytes) = (bucket(limit.operations), bucket(limit.bytes));
        Some(Arc::new(Self(Mutex::new(State { operations, bytes, waiting: VecDeque::new() }))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Holder {
    limiter: Arc<Limiter>,
    timer: Arc<Timer>,
}

/// One device's share in a limit. The default has none, and never waits.
#[derive(Debug, Default)]
pub struct Ticket(Option<Holder>);

/// Leave to do one thing. Whoever is next has its turn when this is gone.
#[must_use]
pub struct Turn<'a>(Option<&'a Holder>);

impl Ticket {
    /// A share in `limiter`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(limiter: Option<&Arc<Limiter>>) -> io::Result<Self> {
        let holder = |limiter: &Arc<Limiter>| -> io::Result<Holder> {
            Ok(Holder { limiter: Arc::clone(limiter), timer: Arc::new(Timer::new()?) })
        };
        Ok(Self(limiter.map(holder).transpose()?))
    }

    /// What fires when a turn has come that was not to be had before; none without a limit.
    pub fn timer(&self) -> Option<&Timer> {
        self.0.as_ref().map(|holder| &*holder.timer)
    }

    /// A turn. None: it will have come when the timer fires.
    pub fn turn(&self) -> Option<Turn<'_>> {
        let Some(holder) = &self.0 else { return Some(Turn(None)) };
        let mut state = holder.limiter.lock();
        let wait = state.wait(Instant::now());
        let place = state.place(&holder.timer);
        let first = place.unwrap_or(state.waiting.len()) == 0;
        if first && wait.is_zero() {
            if place.is_some() {
                state.waiting.pop_front();
            }
            return Some(Turn(Some(holder)));
        }
        if place.is_none() {
            state.waiting.push_back(Arc::clone(&holder.timer));
        }
        if first {
            holder.timer.set(wait);
        }
        None
    }

    /// Waits no longer.
    pub fn leave(&self) {
        let Some(holder) = &self.0 else { return };
        let mut state = holder.limiter.lock();
        holder.timer.stop();
        if let Some(place) = state.place(&holder.timer) {
            state.waiting.remove(place);
            if place == 0 {
                state.call_next(Instant::now());
            }
        }
    }
}

impl Turn<'_> {
    /// It has been used, for so many bytes.
    pub fn spend(self, bytes: u64) {
        let Some(holder) = self.0 else { return };
        let mut state = holder.limiter.lock();
        if let Some(operations) = &mut state.operations {
            operations.spend(1);
        }
        if let Some(bucket) = &mut state.bytes {
            bucket.spend(bytes);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(holder) = self.0 {
            let mut state = holder.limiter.lock();
            if !state.waiting.is_empty() {
                state.call_next(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests;
