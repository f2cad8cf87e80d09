//! The place where the device's driver and its server meet.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::{QueueState, QueueT};
use vm_memory::{Address, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::{Activation, Busy, VirtQueue};

/// How long the server may take over each message.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most ranges of memory that a server must take (vhost-user, "Memory region").
const MAX_RANGES: usize = 8;

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
    /// It is in more pieces than every server takes.
    #[error("the guest's memory is in {0} pieces; a file system server takes {MAX_RANGES}")]
    Pieces(usize),
    /// It is not in a file, or too far in it.
    #[error("the guest's memory cannot be shared with the file system server")]
    Memory,
    /// A clone's pages are its own only from the moment at which it writes them.
    #[error(
        "the guest's memory is a clone's and cannot be shared with a file system server: boot the VM instead"
    )]
    Clone,
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
    /// What the guest has, if that has changed since the driver came.
    memory: Option<GuestMemoryMmap>,
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

    pub(super) fn save(&self) -> Result<Vec<QueueState>, Busy> {
        let state = self.state();
        if state.server.is_some() {
            return Err(Busy("the file system device has a server".to_owned()));
        }
        Ok(state.driver.as_ref().map(|driver| driver.activation.queue_states()).unwrap_or_default())
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
        match &state.memory {
            Some(memory) => driver.introduce(&mut server, memory)?,
            None => driver.introduce(&mut server, &driver.activation.memory.memory())?,
        }
        state.server = Some(server);
        Ok(())
    }
}

impl Share {
    /// Tells the server, now or when it comes, that from now on `memory` is the guest's.
    ///
    /// # Errors
    /// [`ShareError`] when it cannot follow: it still knows the earlier memory then.
    pub fn memory_changes(&self, memory: &GuestMemoryMmap) -> Result<(), ShareError> {
        let mut state = self.state();
        let ranges = match ranges(memory) {
            // There will be no server.
            Err(ShareError::Clone) if state.server.is_none() => Vec::new(),
            ranges => ranges?,
        };
        if let Some(server) = &state.server {
            server.set_mem_table(&ranges).map_err(failed("giving memory to"))?;
        }
        state.memory = Some(memory.clone());
        Ok(())
    }
}

/// The guest's memory in as few ranges as can be. The server finds rings by addresses of this process; the guest's own
/// do as well, as long as both sides use the same, and tell it nothing of this process.
fn ranges(memory: &GuestMemoryMmap) -> Result<Vec<VhostUserMemoryRegionInfo>, ShareError> {
    let mut ranges: Vec<VhostUserMemoryRegionInfo> = Vec::new();
    for region in memory.iter() {
        if region.flags() & libc::MAP_SHARED == 0 {
            return Err(ShareError::Clone);
        }
        let place = region.file_offset().ok_or(ShareError::Memory)?;
        let (address, bytes) = (region.start_addr().raw_value(), region.len());
        let handle = place.file().as_raw_fd();
        match ranges.last_mut() {
            Some(last)
                if last.guest_phys_addr + last.memory_size == address
                    && last.mmap_offset + last.memory_size == place.start()
                    && last.mmap_handle == handle =>
            {
                last.memory_size += bytes;
            }
            _ => ranges.push(VhostUserMemoryRegionInfo {
                guest_phys_addr: address,
                memory_size: bytes,
                userspace_addr: address,
                mmap_offset: place.start(),
                mmap_handle: handle,
            }),
        }
    }
    if ranges.len() > MAX_RANGES {
        return Err(ShareError::Pieces(ranges.len()));
    }
    Ok(ranges)
}

fn failed(action: &'static str) -> impl Fn(vhost::Error) -> ShareError {
    move |source| ShareError::Server { action, source }
}

impl Driver {
    /// Tells the server all that it needs (vhost-user, "Starting and stopping rings").
    fn introduce(&self, server: &mut Frontend, memory: &GuestMemoryMmap) -> Result<(), ShareError> {
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
        server.set_mem_table(&ranges(memory)?).map_err(failed("giving memory to"))?;
        for (number, (queue, call)) in self.activation.queues.iter().zip(self.calls.iter()).enumerate() {
            let ring = ring(queue);
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
}

/// Where the rings are; the transport has seen that they are in the guest's memory.
fn ring(queue: &VirtQueue) -> VringConfigData {
    let ring = &queue.queue;
    VringConfigData {
        queue_max_size: ring.max_size(),
        queue_size: ring.size(),
        flags: 0,
        desc_table_addr: ring.desc_table(),
        used_ring_addr: ring.used_ring(),
        avail_ring_addr: ring.avail_ring(),
        log_addr: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use vm_memory::{FileOffset, GuestAddress};

    #[test]
    fn pieces_that_follow_each_other_are_one_range() {
        const MIB: usize = 1 << 20;
        let file =
            Arc::new(File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()));
        file.set_len(64 << 20).unwrap();
        let piece = |address: u64, offset: usize| {
            let place = FileOffset::from_arc(Arc::clone(&file), offset as u64);
            (GuestAddress(address), MIB, Some(place))
        };
        let high = 4 << 30;
        let memory = |pieces: Vec<_>| GuestMemoryMmap::from_ranges_with_files(pieces).unwrap();
        let found = ranges(&memory(vec![
            piece(0, 0),
            piece(high, 2 * MIB),
            piece(high + MIB as u64, 3 * MIB),
            piece(high + 2 * MIB as u64, 9 * MIB),
        ]))
        .unwrap();
        let found: Vec<_> = found.iter().map(|r| (r.guest_phys_addr, r.memory_size, r.mmap_offset)).collect();
        let mib = MIB as u64;
        assert_eq!(found, [(0, mib, 0), (high, 2 * mib, 2 * mib), (high + 2 * mib, mib, 9 * mib)]);
        let scattered = (0..9).map(|n| piece(n << 24, n as usize * MIB)).collect();
        assert!(matches!(ranges(&memory(scattered)), Err(ShareError::Pieces(9))));
    }
}
