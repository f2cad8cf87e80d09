//! The server: a vhost-user back end (virtiofsd) that is given rings and buffers of its own, and no memory of the guest.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::QUEUE_SIZES;
use super::bounce::Bounce;
use super::shadow::{RING_SIZE, Shadow, ShadowError};
use crate::virtio::{F_VERSION_1, VirtQueue};

/// How long the server may take over each message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// What came is no connection, or memory and descriptors for it are short.
    #[error("the file system server's connection: {0}")]
    System(#[from] io::Error),
    /// The server does not do what it must.
    #[error("the file system server lacks virtio features {0:#x}")]
    Features(u64),
    /// The conversation with the server.
    #[error("{action} the file system server: {source}")]
    Talk {
        /// What was going on.
        action: &'static str,
        /// What went wrong.
        source: vhost::Error,
    },
}

/// A server that is ready.
pub struct Server {
    bounce: Bounce,
    queues: [Queue; QUEUE_SIZES.len()],
    /// It serves as long as the connection is open.
    _connection: Frontend,
}

struct Queue {
    shadow: Shadow,
    kick: EventFd,
}

fn failed(action: &'static str) -> impl Fn(vhost::Error) -> ServerError {
    move |source| ServerError::Talk { action, source }
}

impl Server {
    /// Tells the server at the other end of `connection` all that it needs (vhost-user, "Starting and stopping
    /// rings"); it writes to `calls` when it has answered.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn greet(connection: OwnedFd, calls: &[EventFd; QUEUE_SIZES.len()]) -> Result<Self, ServerError> {
        let stream = UnixStream::from(connection);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut server = Frontend::from_stream(stream, QUEUE_SIZES.len() as u64);
        let enable = greet(&mut server)?;

        let bounce = Bounce::new()?;
        let memory = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: bounce.bytes(),
            userspace_addr: 0,
            mmap_offset: 0,
            mmap_handle: bounce.file().as_raw_fd(),
        };
        server.set_mem_table(&[memory]).map_err(failed("giving memory to"))?;
        let queue = |number| -> Result<Queue, ServerError> {
            let kick = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            Ok(Queue { shadow: Shadow::new(number), kick })
        };
        let queues = [queue(0)?, queue(1)?];
        for (number, (queue, call)) in queues.iter().zip(calls).enumerate() {
            let giving = failed("giving a queue to");
            server.set_vring_num(number, RING_SIZE).map_err(&giving)?;
            // Nobody has served the queue before.
            server.set_vring_base(number, 0).map_err(&giving)?;
            server.set_vring_addr(number, &ring(&queue.shadow)).map_err(&giving)?;
            server.set_vring_call(number, call).map_err(&giving)?;
            server.set_vring_kick(number, &queue.kick).map_err(&giving)?;
            if enable {
                server.set_vring_enable(number, true).map_err(&giving)?;
            }
        }
        Ok(Self { bounce, queues, _connection: server })
    }

    /// Passes on what the guest asks and what the server answers, as far as either has something.
    ///
    /// # Errors
    /// [`ShadowError`]: one of them broke the rules.
    pub fn carry(&mut self, guest: &mut [VirtQueue]) -> Result<(), ShadowError> {
        for (queue, guest) in self.queues.iter_mut().zip(guest.iter_mut()) {
            queue.shadow.answer(guest, &mut self.bounce)?;
        }
        for (queue, guest) in self.queues.iter_mut().zip(guest) {
            if queue.shadow.ask(guest, &mut self.bounce)? {
                // Its counter cannot overflow: the server empties it.
                let _ = queue.kick.write(1);
            }
        }
        Ok(())
    }
}

/// Agrees on features; true if rings have to be enabled one by one.
fn greet(server: &mut Frontend) -> Result<bool, ServerError> {
    let greeting = failed("greeting");
    server.set_owner().map_err(&greeting)?;
    let offered = server.get_features().map_err(&greeting)?;
    if offered & F_VERSION_1 == 0 {
        return Err(ServerError::Features(F_VERSION_1));
    }
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() & offered;
    server.set_features(F_VERSION_1 | protocol).map_err(&greeting)?;
    if protocol != 0 {
        // None is needed; but the rings start enabled only when this is settled.
        let known = server.get_protocol_features().map_err(&greeting)?;
        server.set_protocol_features(known & VhostUserProtocolFeatures::REPLY_ACK).map_err(&greeting)?;
    }
    Ok(protocol != 0)
}

fn ring(shadow: &Shadow) -> VringConfigData {
    let [desc_table_addr, avail_ring_addr, used_ring_addr] = shadow.addresses();
    VringConfigData {
        queue_max_size: RING_SIZE,
        queue_size: RING_SIZE,
        flags: 0,
        desc_table_addr,
        used_ring_addr,
        avail_ring_addr,
        log_addr: None,
    }
}
