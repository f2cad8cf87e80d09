//! The place where the device's driver and its server meet.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::{Activation, VirtQueue};

/// How long the server may take over each message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// There is no device, or the guest's kernel has no driver or has not started it.
    #[error("the guest has no file system device (fs_tag), or no driver for it (CONFIG_VIRTIO_FS)")]
    NoDriver,
    /// Only one server in a VM's life.
    #[error("the file system device has a server already")]
    Attached,
    /// What came is no connection.
    #[error("the file system server's connection: {0}")]
    Socket(#[from] std::io::Error),
    /// The server does not do what the driver was promised.
    #[error("the file system server lacks virtio features {0:#x}")]
    Features(u64),
    /// The driver's rings are not in memory.
    #[error("the guest's queue {0} of the file system device is not in its memory")]
    Queue(usize),
    /// The conversation with the server.
    #[error("{action} the file system server: {source}")]
    Server {
        /// What was going on.
        action: &'static str,
        /// What went wrong.
        source: vhost::Error,
    },
}

/// The device's driver and its server, as far as they are there.
#[derive(Default)]
pub struct Share(Mutex<State>);

#[derive(Default)]
struct State {
    driver: Option<Driver>,
    /// Serves as long as the connection is open.
    server: Option<Frontend>,
}

struct Driver {
    activation: Activation,
    calls: Arc<[EventFd]>,
}

impl Share {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has set up its queues.
    pub(super) fn driver_is_ready(&self, activation: Activation, calls: Arc<[EventFd]>) {
        self.state().driver = Some(Driver { activation, calls });
    }

    /// The guest has reset the device: what serves its queues must not touch its memory any more, and ends when
    /// the connection does.
    pub(super) fn driver_is_gone(&self) {
        let mut state = self.state();
        state.driver = None;
        if let Some(server) = state.server.take() {
            for queue in 0..super::QUEUE_SIZES.len() {
                // Answered when the queue has come to rest.
                if let Err(error) = server.get_vring_base(queue) {
                    crate::fact!("stopping queue {queue} of the file system server: {error}");
                }
            }
        }
    }

    /// Hands the driver's queues to the server at the other end of `connection`.
    ///
    /// # Errors
    /// [`ShareError`]; the device is without a server then, as before.
    pub fn attach(&self, connection: OwnedFd) -> Result<(), ShareError> {
        let mut state = self.state();
        if state.server.is_some() {
            return Err(ShareError::Attached);
        }
        let driver = state.driver.as_ref().ok_or(ShareError::NoDriver)?;
        let stream = UnixStream::from(connection);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut server = Frontend::from_stream(stream, super::QUEUE_SIZES.len() as u64);
        driver.introduce(&mut server)?;
        state.server = Some(server);
        Ok(())
    }
}

fn failed(action: &'static str) -> impl Fn(vhost::Error) -> ShareError {
    move |source| ShareError::Server { action, source }
}

impl Driver {
    /// Tells the server all that it needs (vhost-user, "Starting and stopping rings").
    fn introduce(&self, server: &mut Frontend) -> Result<(), ShareError> {
        let greeting = failed("greeting");
        server.set_owner().map_err(&greeting)?;
        let offered = server.get_features().map_err(&greeting)?;
        let wanted = self.activation.features;
        if wanted & !offered != 0 {
            return Err(ShareError::Features(wanted & !offered));
        }
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() & offered;
        server.set_features(wanted | protocol).map_err(&greeting)?;
        if protocol != 0 {
            // None is needed; but the rings start enabled only when this is settled.
            let known = server.get_protocol_features().map_err(&greeting)?;
            let used = known & vhost::vhost_user::message::VhostUserProtocolFeatures::REPLY_ACK;
            server.set_protocol_features(used).map_err(&greeting)?;
        }
        let regions = self
            .activation
            .memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("describing memory to"))?;
        server.set_mem_table(&regions).map_err(failed("giving memory to"))?;
        for (number, (queue, call)) in self.activation.queues.iter().zip(self.calls.iter()).enumerate() {
            let ring = self.ring(number, queue)?;
            let giving = failed("giving a queue to");
            server.set_vring_num(number, ring.queue_size).map_err(&giving)?;
            // Nobody has served the queue before.
            server.set_vring_base(number, 0).map_err(&giving)?;
            server.set_vring_addr(number, &ring).map_err(&giving)?;
            server.set_vring_call(number, call).map_err(&giving)?;
            server.set_vring_kick(number, &queue.kick).map_err(&giving)?;
            if protocol != 0 {
                server.set_vring_enable(number, true).map_err(&giving)?;
            }
            // What the driver has asked for already.
            queue.kick_again();
        }
        Ok(())
    }

    /// Where the rings are in this process, which is how the server finds them in the memory that it is given.
    fn ring(&self, number: usize, queue: &VirtQueue) -> Result<VringConfigData, ShareError> {
        let host = |address: u64| {
            let address = self.activation.memory.get_host_address(GuestAddress(address));
            address.map(|address| address as u64).map_err(|_| ShareError::Queue(number))
        };
        let ring = &queue.queue;
        Ok(VringConfigData {
            queue_max_size: ring.max_size(),
            queue_size: ring.size(),
            flags: 0,
            desc_table_addr: host(ring.desc_table())?,
            used_ring_addr: host(ring.used_ring())?,
            avail_ring_addr: host(ring.avail_ring())?,
            log_addr: None,
        })
    }
}
