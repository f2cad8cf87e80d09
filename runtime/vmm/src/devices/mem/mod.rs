//! virtio-mem (virtio 1.2, section 5.15): memory that the guest is asked to take and to give back while it runs.
//!
//! What the guest has not plugged it cannot touch: slots of the region without a plugged block are no memory for its
//! CPUs, its devices and its volumes' server. A guest that does not give memory back keeps it, and a guest that asks
//! for more than the host requested does not get it.

mod blocks;
mod plug;
mod request;

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueState;

pub use plug::Plug;

use crate::virtio::{Activation, Busy, Device, F_COMMON, Identity, QueueError};

/// `VIRTIO_ID_MEM`.
const ID: u32 = 24;
/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// The device.
pub struct Mem {
    plug: Arc<Plug>,
    active: Option<Activation>,
}

impl Mem {
    /// The device of `plug`.
    pub fn new(plug: Arc<Plug>) -> Self {
        Self { plug, active: None }
    }

    /// What the transport has to know.
    pub fn identity(plug: &Plug) -> Identity {
        Identity {
            kind: ID,
            features: F_COMMON | F_UNPLUGGED_INACCESSIBLE,
            queue_sizes: &[16],
            required_queues: 1,
            config: plug.config(),
        }
    }

    fn serve(&self, active: &mut Activation) -> Result<(), QueueError> {
        let Some(queue) = active.queues.first_mut() else { return Ok(()) };
        queue.serve(|chain| self.plug.with(|blocks| request::serve(chain, blocks)))
    }
}

impl Device for Mem {
    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    /// What is plugged stays: a driver that comes back finds it in the configuration.
    fn deactivate(&mut self) {
        self.active = None;
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        match self.plug.plugged() {
            0 => Ok(self.active.as_ref().map(Activation::queue_states).unwrap_or_default()),
            bytes => Err(Busy(format!("{} MiB of memory are plugged", bytes >> 20))),
        }
    }
}

impl MutEventSubscriber for Mem {
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
