//! virtio-rng (virtio 1.2, section 5.4): the host's random bytes for the guest.

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueState;

use crate::sys;
use crate::virtio::{Activation, Busy, ConfigSpace, Device, F_COMMON, Identity, QueueError};

/// `VIRTIO_ID_RNG`.
const ID: u32 = 4;
/// The most bytes that one request gets; a driver asks again for more.
const MAX_BYTES: usize = 4096;

/// The device.
#[derive(Default)]
pub struct Rng(Option<Activation>);

impl Rng {
    /// What the transport has to know.
    pub fn identity() -> Identity {
        Identity {
            kind: ID,
            features: F_COMMON,
            queue_sizes: &[64],
            required_queues: 1,
            config: Arc::new(ConfigSpace::default()),
        }
    }

    fn serve(active: &mut Activation) -> Result<(), QueueError> {
        let Some(queue) = active.queues.first_mut() else { return Ok(()) };
        queue.serve(|chain| {
            let mut written = 0;
            for slice in chain.writable(0, MAX_BYTES) {
                match sys::random(&slice) {
                    Ok(bytes) => written += bytes,
                    Err(_) => break,
                }
            }
            written as u32
        })
    }
}

impl Device for Rng {
    fn activate(&mut self, activation: Activation) {
        self.0 = Some(activation);
    }

    fn deactivate(&mut self) {
        self.0 = None;
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        Ok(self.0.as_ref().map(Activation::queue_states).unwrap_or_default())
    }
}

impl MutEventSubscriber for Rng {
    fn init(&mut self, ops: &mut EventOps) {
        if let Some(active) = &self.0 {
            active.watch_queues(ops);
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        let Some(active) = &mut self.0 else { return };
        active.queues.iter().for_each(|queue| drop(queue.kick.read()));
        if let Err(error) = Self::serve(active) {
            active.fail(ops, &error);
            self.0 = None;
        }
    }
}
