//! virtio-net (virtio 1.2, section 5.1) over a tap: one queue each way, checksum and segmentation offloads, and limits.

mod mac;
mod offload;
mod rx;
mod tally;
mod tx;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU};
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;

pub use mac::parse as parse_mac;

use crate::config::NetConfig;
use crate::rate::{Ticket, Timer};
use crate::statistics;
use crate::sys;
use crate::virtio::{Activation, Busy, ConfigSpace, Device, F_COMMON, Identity, QueueError};
use rx::Receiver;
use tally::Tally;

/// `VIRTIO_ID_NET`.
const ID: u32 = 1;
/// `struct virtio_net_hdr_mrg_rxbuf`, before each frame.
const HEADER: usize = 12;
/// 64 KiB of payload (what segmentation offload may make) with an Ethernet header and two VLAN tags.
const MAX_FRAME: usize = (64 << 10) + 14 + 8;
/// Frames in one direction before others of the same thread have their turn.
const BATCH: usize = 64;

const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;
/// Data of the tap's events; those of the queues are the queues' numbers.
const TAP: u32 = 2;
/// Data of the events of the limits' timers.
const RX_TURN: u32 = 3;
const TX_TURN: u32 = 4;

/// Why there is no network device.
#[derive(Debug, thiserror::Error)]
#[error("the tap with descriptor {fd} (nets[].tap_fd): {what}: {source}")]
pub struct TapError {
    fd: i32,
    what: &'static str,
    source: io::Error,
}

struct Active {
    activation: Activation,
    receiver: Receiver,
    /// Its events come once; whether it may hold frames is remembered here.
    tap_ready: bool,
}

/// Shares in what all interfaces may carry.
#[derive(Default)]
pub struct Limits {
    /// Frames for the guest.
    pub rx: Ticket,
    /// Frames of the guest.
    pub tx: Ticket,
}

impl Limits {
    fn leave(&self) {
        self.rx.leave();
        self.tx.leave();
    }
}

/// The device.
pub struct Net {
    /// Without one it carries nothing.
    tap: Option<OwnedFd>,
    mtu: u16,
    limits: Limits,
    tally: Tally,
    active: Option<Active>,
}

impl Net {
    /// A device over the tap of `config`, which is number `index`, within `limits`.
    ///
    /// # Errors
    /// [`TapError`], for example when the descriptor is no tap.
    pub fn new(
        index: usize,
        config: &NetConfig,
        limits: Limits,
        totals: statistics::Shared,
    ) -> Result<Self, TapError> {
        let tap = config.tap_fd.map(inherit_tap).transpose()?;
        Ok(Self { tap, mtu: config.mtu, limits, tally: Tally::new(index, totals), active: None })
    }

    /// What the transport has to know.
    pub fn identity(mac: [u8; 6], mtu: u16) -> Identity {
        // `struct virtio_net_config`: mac, status, max_virtqueue_pairs, mtu.
        let mut config = mac.to_vec();
        config.extend([0; 4]);
        config.extend(mtu.to_le_bytes());
        let features = F_COMMON
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MTU
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | offload::features();
        Identity {
            kind: ID,
            features,
            queue_sizes: &[QUEUE_SIZE; 2],
            required_queues: 2,
            config: Arc::new(ConfigSpace::new(config)),
        }
    }

    fn receive(&self, active: &mut Active) -> Result<(), QueueError> {
        let queues = &mut active.activation.queues;
        let (Some(tap), Some(queue)) = (&self.tap, queues.get_mut(RX).filter(|_| active.tap_ready)) else {
            return Ok(());
        };
        match active.receiver.serve(queue, tap.as_fd(), &self.limits.rx, &self.tally, BATCH)? {
            rx::Pause::TapEmpty => active.tap_ready = false,
            // The driver's kick and the timer go on from here.
            rx::Pause::NoBuffers | rx::Pause::Limit => {}
            rx::Pause::Turn => queue.kick_again(),
        }
        queue.notify()
    }

    /// With their events' data.
    fn timers(&self) -> impl Iterator<Item = (&Timer, u32)> {
        let both = [(self.limits.rx.timer(), RX_TURN), (self.limits.tx.timer(), TX_TURN)];
        both.into_iter().filter_map(|(timer, data)| Some((timer?, data)))
    }

    fn transmit(&self, active: &mut Active) -> Result<(), QueueError> {
        let queues = &mut active.activation.queues;
        let (Some(tap), Some(queue)) = (&self.tap, queues.get_mut(TX)) else { return Ok(()) };
        match tx::serve(queue, tap.as_fd(), &self.limits.tx, &self.tally, BATCH)? {
            tx::Pause::Empty | tx::Pause::Limit => {}
            tx::Pause::Turn => queue.kick_again(),
        }
        queue.notify()
    }
}

/// A tap that was handed to this process.
fn inherit_tap(fd: i32) -> Result<OwnedFd, TapError> {
    let failed = |what| move |source| TapError { fd, what, source };
    let tap = sys::inherit(fd).map_err(failed("it was not inherited"))?;
    sys::set_nonblocking(tap.as_fd()).map_err(failed("fcntl"))?;
    sys::set_vnet_header_size(tap.as_fd(), HEADER as i32)
        .map_err(failed("it is no tap with IFF_VNET_HDR"))?;
    sys::set_offloads(tap.as_fd(), 0).map_err(failed("it takes no offload settings"))?;
    Ok(tap)
}

impl Device for Net {
    fn activate(&mut self, activation: Activation) {
        let features = activation.features;
        let offloads = offload::tap_flags(features);
        if let Some(Err(error)) = self.tap.as_ref().map(|tap| sys::set_offloads(tap.as_fd(), offloads)) {
            crate::fact!("net: the tap refuses offloads: {error}");
        }
        let frame = if offload::large_frames(features) { MAX_FRAME } else { usize::from(self.mtu) + 14 + 8 };
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let receiver = Receiver::new(mergeable, HEADER + frame);
        self.active = Some(Active { activation, receiver, tap_ready: true });
    }

    fn deactivate(&mut self) {
        self.active = None;
        self.limits.leave();
        if let Some(tap) = &self.tap {
            let _ = sys::set_offloads(tap.as_fd(), 0);
        }
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let mut states = active.activation.queue_states();
        if let Some(receiving) = states.get_mut(RX) {
            receiving.next_avail = receiving.next_avail.wrapping_sub(active.receiver.taken());
        }
        Ok(states)
    }
}

impl MutEventSubscriber for Net {
    fn init(&mut self, ops: &mut EventOps) {
        let Some(active) = &self.active else { return };
        active.activation.watch_queues(ops);
        let Some(tap) = &self.tap else { return };
        if let Err(error) = ops.add(Events::with_data(tap, TAP, EventSet::IN | EventSet::EDGE_TRIGGERED)) {
            crate::fact!("net: the tap {} cannot be watched: {error}", tap.as_raw_fd());
        }
        for (timer, data) in self.timers() {
            if let Err(error) = ops.add(Events::with_data(timer, data, EventSet::IN)) {
                crate::fact!("net: a limit's timer cannot be watched: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        let number = events.data();
        if number == TAP {
            active.tap_ready = true;
        } else if let Some((timer, _)) = self.timers().find(|(_, data)| *data == number) {
            timer.fired();
        } else if let Some(queue) = active.activation.queues.get(number as usize) {
            let _ = queue.kick.read();
        }
        let transmits = number as usize == TX || number == TX_TURN;
        let done = if transmits { self.transmit(&mut active) } else { self.receive(&mut active) };
        match done {
            Ok(()) => self.active = Some(active),
            Err(error) => {
                if let Some(tap) = &self.tap {
                    let _ = ops.remove(Events::empty(tap));
                }
                for (timer, _) in self.timers() {
                    let _ = ops.remove(Events::empty(timer));
                }
                self.limits.leave();
                active.activation.fail(ops, &error);
            }
        }
    }
}
