//! virtio-fs (virtio 1.2, section 5.11): the pod's volumes.
//!
//! The device is declared at boot without a server, as block slots are without a medium: requests wait in the
//! queues until a vhost-user back end (virtiofsd) is attached, which from then on serves the queues itself. Of
//! a request nothing passes through this process but the interrupt.

mod share;

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use share::{Share, ShareError};

use crate::virtio::{Activation, Busy, ConfigSpace, Device, F_COMMON, Identity, Interrupt};

/// `VIRTIO_ID_FS`.
const ID: u32 = 26;
/// One queue for urgent requests (`FORGET`), one for all others.
const QUEUE_SIZES: &[u16] = &[128, 256];
/// Bytes of the tag's field.
pub const TAG_BYTES: usize = 36;

/// The device.
pub struct Fs {
    share: Arc<Share>,
    /// Written by the server, once for each queue, when it has used buffers.
    calls: Arc<[EventFd]>,
    interrupt: Option<Interrupt>,
}

impl Fs {
    /// The device whose server is attached by `share`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(share: Arc<Share>) -> io::Result<Self> {
        let call = |_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let calls: Arc<[EventFd]> = QUEUE_SIZES.iter().map(call).collect::<io::Result<Vec<_>>>()?.into();
        Ok(Self { share, calls, interrupt: None })
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
            config: Arc::new(ConfigSpace::new(config)),
        }
    }
}

impl Device for Fs {
    fn activate(&mut self, activation: Activation) {
        self.interrupt = Some(activation.interrupt.clone());
        self.share.driver_is_ready(activation, Arc::clone(&self.calls));
    }

    fn deactivate(&mut self) {
        self.interrupt = None;
        self.share.driver_is_gone();
    }

    fn save(&self) -> Result<Vec<QueueState>, Busy> {
        self.share.save()
    }
}

impl MutEventSubscriber for Fs {
    fn init(&mut self, ops: &mut EventOps) {
        for (queue, call) in self.calls.iter().enumerate() {
            if let Err(error) = ops.add(Events::with_data(call, queue as u32, EventSet::IN))
                && let Some(interrupt) = &self.interrupt
            {
                interrupt.needs_reset(&format_args!("its server cannot be heard: {error}"));
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if let Some(call) = self.calls.get(events.data() as usize) {
            let _ = call.read();
        }
        if let Some(interrupt) = &self.interrupt {
            interrupt.signal_queue();
        }
    }
}
