//! Devices that answer whatever their driver asks for as soon as they hear of it: nothing is in flight between two events.

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueState;

use super::{Activation, Busy, Device, QueueError, VirtQueue};

/// What is a device's own.
pub trait Serve: Send {
    /// Answers what is available in the queues, a batch of each at most.
    ///
    /// # Errors
    /// [`QueueError`] when the driver's ring is impossible; the device needs a reset then.
    fn serve(&self, queues: &mut [VirtQueue]) -> Result<(), QueueError>;

    /// Whether a snapshot can be made.
    ///
    /// # Errors
    /// [`Busy`] when the device has something that a snapshot cannot hold.
    fn savable(&self) -> Result<(), Busy> {
        Ok(())
    }
}

/// The device around it.
pub struct Served<S> {
    service: S,
    active: Option<Activation>,
}

impl<S: Serve> Served<S> {
    /// A device that `service` makes what it is.
    pub fn new(service: S) -> Self {
        Self { service, active: None }
    }
}

impl<S: Serve> Device for Served<S> {
    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn deactivate(&mut self) {
        self.active = None;
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        self.service.savable()?;
        Ok(self.active.as_ref().map(Activation::queue_states).unwrap_or_default())
    }
}

impl<S: Serve> MutEventSubscriber for Served<S> {
    fn init(&mut self, ops: &mut EventOps) {
        if let Some(active) = &self.active {
            active.watch_queues(ops);
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        active.queues.iter().for_each(|queue| drop(queue.kick.read()));
        match self.service.serve(&mut active.queues) {
            Ok(()) => self.active = Some(active),
            Err(error) => active.fail(ops, &error),
        }
    }
}
