//! A pair of queues beyond the first, in a thread of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use event_manager::SubscriberId;
use virtio_queue::QueueState;

use super::pair::Pair;
use super::tally::Tally;
use super::{Limits, TapError};
use crate::sys;
use crate::virtio::{Activation, BoxedDevice, Busy, VirtQueue, WorkerError, WorkerHandle};

/// Where the pair is.
enum Place {
    /// Here: it carries nothing.
    Here(BoxedDevice),
    /// In its thread's loop.
    Away(SubscriberId),
    /// Its thread is gone; the VM ends.
    Lost,
}

/// The pair.
pub struct OtherPair {
    /// The tap's queue, detached while the pair is here.
    queue: Option<OwnedFd>,
    worker: WorkerHandle,
    place: Place,
    /// The driver has set it up.
    set_up: bool,
    /// Queues that the driver has left.
    left: Vec<VirtQueue>,
}

/// A pair is not used, or goes on being used.
#[derive(Debug, thiserror::Error)]
pub enum UseError {
    /// The tap's queue.
    #[error("the tap's queue: {0}")]
    Queue(#[from] io::Error),
    /// The thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl OtherPair {
    /// A pair that is not used yet, over a queue of a tap.
    ///
    /// # Errors
    /// [`TapError`], for example when the tap has a single queue.
    pub fn new(
        queue: Option<OwnedFd>,
        mtu: u16,
        limits: Limits,
        tally: Tally,
        worker: WorkerHandle,
    ) -> Result<Self, TapError> {
        let copy = match &queue {
            None => None,
            Some(queue) => {
                let failed = |what| {
                    let fd = queue.as_raw_fd();
                    move |source| TapError { fd, what, source }
                };
                let attach = |attached| sys::use_tap_queue(queue.as_fd(), attached);
                // What it is already cannot be said again: an earlier VM may have had it.
                attach(false)
                    .or_else(|_| attach(true).and_then(|()| attach(false)))
                    .map_err(failed("it is no queue of several"))?;
                Some(queue.try_clone().map_err(failed("it cannot be copied"))?)
            }
        };
        let place = Place::Here(Box::new(Pair::new(copy, mtu, limits, tally)));
        Ok(Self { queue, worker, place, set_up: false, left: Vec::new() })
    }

    /// Takes two queues, if the driver has set up both. [`Self::use_it`] follows when it wants them used.
    pub fn prepare(&mut self, activation: Activation) {
        match &mut self.place {
            Place::Here(pair) if activation.queues.iter().all(VirtQueue::ready) => {
                pair.activate(activation);
                self.set_up = true;
            }
            _ => self.left = activation.queues,
        }
    }

    /// Whether the driver has set it up.
    pub fn is_set_up(&self) -> bool {
        self.set_up
    }

    /// Carries frames from now on, or no longer.
    ///
    /// # Errors
    /// [`UseError`].
    pub fn use_it(&mut self, used: bool) -> Result<(), UseError> {
        let attach = |attached| match &self.queue {
            Some(queue) => sys::use_tap_queue(queue.as_fd(), attached),
            None => Ok(()),
        };
        match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Here(pair) if used && self.set_up => {
                // Before it is watched: of a queue that is detached there is nothing to be heard, ever.
                let attached = attach(true);
                if attached.is_err() {
                    self.place = Place::Here(pair);
                    return Ok(attached?);
                }
                self.place = Place::Away(self.worker.add(pair)?);
            }
            Place::Away(id) if !used => {
                self.place = Place::Here(self.worker.remove(id)?);
                attach(false)?;
            }
            place => self.place = place,
        }
        Ok(())
    }

    /// Returns when it has stopped, and has forgotten what the driver has given.
    ///
    /// # Errors
    /// [`UseError`].
    pub fn stop(&mut self) -> Result<(), UseError> {
        let stopped = self.use_it(false);
        if let Place::Here(pair) = &mut self.place {
            pair.deactivate();
        }
        self.set_up = false;
        self.left.clear();
        stopped
    }

    /// As [`crate::virtio::Device::save`], of its two queues.
    ///
    /// # Errors
    /// As there.
    pub fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        let gone = |error: WorkerError| Busy(error.to_string());
        match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Here(mut pair) => {
                let saved = if self.set_up {
                    pair.save()
                } else {
                    Ok(self.left.iter().map(VirtQueue::state).collect())
                };
                self.place = Place::Here(pair);
                saved
            }
            Place::Away(id) => {
                // Out of its loop it is not at work.
                let mut pair = self.worker.remove(id).map_err(gone)?;
                let saved = pair.save();
                self.place = Place::Away(self.worker.add(pair).map_err(gone)?);
                saved
            }
            Place::Lost => Err(Busy("the thread of a pair of queues is gone".to_owned())),
        }
    }
}
