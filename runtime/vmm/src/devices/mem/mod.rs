//! virtio-mem (virtio 1.2, section 5.15): memory that the guest is asked to take and to give back while it runs.
//!
//! What the guest has not plugged it cannot touch: slots of the region without a plugged block are no memory for its
//! CPUs, its devices and its volumes' server. A guest that does not give memory back keeps it, and a guest that asks
//! for more than the host requested does not get it.

mod blocks;
mod plug;
mod request;

use std::sync::Arc;

pub use plug::Plug;

use crate::virtio::{Busy, F_COMMON, Identity, QueueError, Serve, VirtQueue};

/// `VIRTIO_ID_MEM`.
const ID: u32 = 24;
/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// The device, in a [`Served`](crate::virtio::Served). What is plugged outlives a reset: a driver that comes back finds it
/// in the configuration.
pub struct Mem {
    plug: Arc<Plug>,
}

impl Mem {
    /// The device of `plug`.
    pub fn new(plug: Arc<Plug>) -> Self {
        Self { plug }
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
}

impl Serve for Mem {
    fn serve(&self, queues: &mut [VirtQueue]) -> Result<(), QueueError> {
        let Some(queue) = queues.first_mut() else { return Ok(()) };
        queue.serve(|chain| self.plug.with(|blocks| request::serve(chain, blocks)))
    }

    fn savable(&self) -> Result<(), Busy> {
        self.plug.savable()
    }
}
