//! virtio-rng (virtio 1.2, section 5.4): the host's random bytes for the guest.

use std::sync::Arc;

use crate::sys;
use crate::virtio::{ConfigSpace, F_COMMON, Identity, QueueError, Serve, VirtQueue};

/// `VIRTIO_ID_RNG`.
const ID: u32 = 4;
/// The most bytes that one request gets; a driver asks again for more.
const MAX_BYTES: usize = 4096;

/// The device, in a [`Served`](crate::virtio::Served).
pub struct Rng;

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
}

impl Serve for Rng {
    fn serve(&self, queues: &mut [VirtQueue]) -> Result<(), QueueError> {
        let Some(queue) = queues.first_mut() else { return Ok(()) };
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
