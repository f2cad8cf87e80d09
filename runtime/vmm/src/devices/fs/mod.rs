//! virtio-fs (virtio 1.2, section 5.11): the pod's volumes.
//!
//! The device is declared at boot without a server, as block slots are without a medium: requests wait in the
//! queues until a vhost-user back end (virtiofsd) is attached. Each request is then copied into memory that the
//! server shares with this process, and its answer back into the guest's: what serves tenants' files sees no memory
//! of the guest, and the guest's memory need not be one that can be shared, such as a clone's.

mod bounce;
mod pages;
mod server;
mod shadow;
mod share;

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;

pub use share::{Share, ShareError};

use crate::virtio::{Activation, Busy, ConfigSpace, Device, F_COMMON, Identity};

/// `VIRTIO_ID_FS`.
const ID: u32 = 26;
/// One queue for urgent requests (`FORGET`), one for all others.
const QUEUE_SIZES: &[u16; 2] = &[128, 256];
/// Bytes of the tag's field.
pub const TAG_BYTES: usize = 36;

/// The device.
pub struct Fs {
    share: Arc<Share>,
    active: Option<Activation>,
}

impl Fs {
    /// The device whose server is attached by `share`.
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, active: None }
    }

    /// What the transport has to know.
    pub fn identity(tag: &str) -> Identity {
        let mut config = tag.as_bytes().to_vec();
        config.resize(TAG_BYTES, 0);
        config.extend((QUEUE_SIZES.len() as u32 - 1).to_le_bytes());
        Identity {
            kind: ID,
            features: F_COMMON,
            queue_sizes: QUEUE_SIZES,
            required_queues: QUEUE_SIZES.len(),
            config: Arc::new(ConfigSpace::new(config)),
        }
    }
}

impl Device for Fs {
    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn deactivate(&mut self) {
        self.active = None;
        self.share.driver_is_gone();
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        if self.share.is_attached() {
            return Err(Busy("the file system device has a server".to_owned()));
        }
        Ok(self.active.as_ref().map(Activation::queue_states).unwrap_or_default())
    }
}

impl MutEventSubscriber for Fs {
    fn init(&mut self, ops: &mut EventOps) {
        let Some(active) = &self.active else { return };
        active.watch_queues(ops);
        for call in &self.share.calls {
            if let Err(error) = ops.add(Events::new(call, EventSet::IN)) {
                active.interrupt.needs_reset(&format_args!("its server cannot be heard: {error}"));
            }
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        active.queues.iter().for_each(|queue| drop(queue.kick.read()));
        self.share.calls.iter().for_each(|call| drop(call.read()));
        match self.share.carry(&mut active.queues) {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                for call in &self.share.calls {
                    let _ = ops.remove(Events::empty(call));
                }
                active.fail(ops, &error);
            }
        }
    }
}
