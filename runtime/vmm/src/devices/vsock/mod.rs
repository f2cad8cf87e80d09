//! virtio-vsock (virtio 1.2, section 5.10), stream sockets; the host's side is unix sockets.

mod connection;
mod host;
mod mux;
mod packet;

#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;

use crate::config::VsockConfig;
use crate::host_ports::HostPorts;
use crate::statistics;
use crate::sys;
use crate::virtio::{Activation, Busy, ConfigSpace, Device, F_COMMON, Identity, QueueError, VirtQueue};
use mux::Mux;
use packet::{HEADER, Header};

pub use host::listen;

/// `VIRTIO_ID_VSOCK`.
const ID: u32 = 19;
/// Packets in one direction before others of the same thread have their turn.
const BATCH: usize = 64;
/// The most data of one packet for the guest.
const MAX_DATA: usize = 64 << 10;

/// Queue 0 is the guest's receiving, 1 its sending, 2 events.
const TX: usize = 1;
const EVENTS: usize = 2;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, a whole `struct virtio_vsock_event`.
const TRANSPORT_RESET: [u8; 4] = [0; 4];
const QUEUES: usize = 3;
const QUEUE_SIZE: u16 = 256;
/// Data of the host's events; those of the queues are the queues' numbers.
const HOST: u32 = QUEUES as u32;

struct Active {
    activation: Activation,
    mux: Mux,
    /// The driver of a clone has not dealt with the reset of its transport yet. It ends every connection that it has
    /// then, without a word to the host: until it has done so it gets none.
    resetting: bool,
}

/// The device.
pub struct Vsock {
    cid: u64,
    host: Arc<HostPorts>,
    listener: UnixListener,
    counters: statistics::Shared,
    active: Option<Active>,
}

impl Vsock {
    /// A device whose clients, who connect to `listener`, wait until the guest has a driver.
    ///
    /// # Errors
    /// When the configuration's descriptor was not inherited.
    pub fn new(
        config: &VsockConfig,
        listener: UnixListener,
        counters: statistics::Shared,
    ) -> io::Result<Self> {
        let host = Arc::new(HostPorts::new(config.host_fd.map(sys::inherit).transpose()?));
        Ok(Self { cid: config.cid.into(), host, listener, counters, active: None })
    }

    /// What the transport has to know.
    pub fn identity(cid: u32) -> Identity {
        let config = Arc::new(ConfigSpace::new(u64::from(cid).to_le_bytes().to_vec()));
        Identity {
            kind: ID,
            features: F_COMMON,
            queue_sizes: &[QUEUE_SIZE; QUEUES],
            required_queues: QUEUES,
            config,
        }
    }

    fn start(&self, activation: Activation) -> io::Result<Active> {
        let mux = Mux::new(self.cid, Arc::clone(&self.host), self.listener.try_clone()?)?;
        Ok(Active { activation, mux, resetting: false })
    }

    /// Tells the driver of a clone that its connections are gone and that its CID may be another (5.10.6.7). There are
    /// no other events: the rest of its buffers are kept, so that the next one says that it has read this.
    fn tell_reset(active: &mut Active) -> Result<(), QueueError> {
        let Some(queue) = active.activation.queues.get_mut(EVENTS) else { return Ok(()) };
        if let Some(chain) = queue.pop()? {
            chain.write(0, &TRANSPORT_RESET);
            queue.give_back(chain.head, TRANSPORT_RESET.len() as u32)?;
            active.resetting = true;
        }
        for _ in 0..QUEUE_SIZE {
            if queue.pop()?.is_none() {
                break;
            }
        }
        queue.notify()
    }

    /// Whether the driver may be given something.
    fn open(active: &mut Active) -> Result<bool, QueueError> {
        if active.activation.restored.take().is_some() {
            Self::tell_reset(active)?;
        }
        if active.resetting
            && let Some(queue) = active.activation.queues.get_mut(EVENTS)
        {
            active.resetting = !queue.listen()?;
            // What has been kept waiting.
            active.activation.queues.iter().filter(|_| !active.resetting).for_each(VirtQueue::kick_again);
        }
        Ok(!active.resetting)
    }

    fn serve(active: &mut Active, from_guest: bool) -> Result<(), QueueError> {
        if !Self::open(active)? {
            return Ok(());
        }
        let Active { activation: Activation { queues, .. }, mux, .. } = active;
        let [rx, tx, ..] = queues.as_mut_slice() else { return Ok(()) };
        if from_guest && receive(tx, mux)? {
            tx.kick_again();
        }
        tx.notify()?;
        if deliver(rx, mux)? {
            rx.kick_again();
        }
        rx.notify()
    }
}

/// Takes packets of the guest; true when the turn was over first.
fn receive(tx: &mut VirtQueue, mux: &mut Mux) -> Result<bool, QueueError> {
    for _ in 0..BATCH {
        let Some(chain) = tx.pop()? else {
            if tx.listen()? {
                continue;
            }
            return Ok(false);
        };
        let mut header = [0; HEADER];
        if chain.read(0, &mut header) {
            let header = Header::parse(&header);
            // A packet that is shorter than it says is none.
            if header.length as usize <= chain.readable_bytes() - HEADER {
                mux.take_packet(&header, |bytes| chain.readable(HEADER, bytes));
            }
        }
        tx.give_back(chain.head, 0)?;
    }
    Ok(true)
}

/// Gives packets to the guest; true when the turn was over first.
fn deliver(rx: &mut VirtQueue, mux: &mut Mux) -> Result<bool, QueueError> {
    for _ in 0..BATCH {
        if !mux.has_packet() {
            return Ok(false);
        }
        let Some(chain) = rx.pop()? else {
            if rx.listen()? {
                continue;
            }
            // The driver's kick goes on from here.
            return Ok(false);
        };
        // A buffer without room for data would never move a connection on.
        if chain.writable_bytes() <= HEADER {
            rx.give_back(chain.head, 0)?;
            continue;
        }
        let Some(header) = mux.next_packet(&chain.writable(HEADER, MAX_DATA)) else {
            rx.unpop();
            return Ok(false);
        };
        chain.write(0, &header.bytes());
        rx.give_back(chain.head, HEADER as u32 + header.length)?;
    }
    Ok(true)
}

impl Device for Vsock {
    fn activate(&mut self, activation: Activation) {
        let interrupt = activation.interrupt.clone();
        match self.start(activation) {
            Ok(active) => self.active = Some(active),
            Err(error) => interrupt.needs_reset(&format_args!("vsock: {error}")),
        }
    }

    fn deactivate(&mut self) {
        self.active = None;
        self.counters.vsock_connections.set(0);
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        match active.mux.at_work() {
            0 => Ok(active.activation.queue_states()),
            count => Err(Busy(format!("{count} vsock connections are open"))),
        }
    }
}

impl MutEventSubscriber for Vsock {
    fn init(&mut self, ops: &mut EventOps) {
        let Some(active) = &self.active else { return };
        active.activation.watch_queues(ops);
        if let Err(error) = ops.add(Events::with_data(active.mux.epoll(), HOST, EventSet::IN)) {
            crate::fact!("vsock: the host's sockets cannot be watched: {error}");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        let number = events.data();
        if number == HOST {
            active.mux.serve_host();
        } else if let Some(queue) = active.activation.queues.get(number as usize) {
            let _ = queue.kick.read();
        }
        let done = Self::serve(&mut active, number as usize == TX);
        self.counters.vsock_connections.set(active.mux.connections() as u64);
        match done {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                let _ = ops.remove(Events::empty(active.mux.epoll()));
                active.activation.fail(ops, &error);
            }
        }
    }
}
