//! virtio-net (virtio 1.2, section 5.1) over a tap: checksum and segmentation offloads, limits, and a pair of queues or
//! several. The first pair is served by the device's thread, each of the others by one of its own.

mod control;
mod mac;
mod offload;
mod other;
mod pair;
mod rx;
mod tally;
mod tx;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;

pub use mac::parse as parse_mac;

use crate::config::{MAX_NET_QUEUES, NetConfig};
use crate::rate::Ticket;
use crate::statistics;
use crate::sys;
use crate::virtio::{
    Activation, Busy, ConfigSpace, Device, F_COMMON, Identity, Interrupt, VirtQueue, WorkerHandle,
};
use other::OtherPair;
use pair::Pair;
use tally::Tally;

/// `VIRTIO_ID_NET`.
const ID: u32 = 1;
/// `struct virtio_net_hdr_mrg_rxbuf`, before each frame.
const HEADER: usize = 12;
/// 64 KiB of payload (what segmentation offload may make) with an Ethernet header and two VLAN tags.
const MAX_FRAME: usize = (64 << 10) + 14 + 8;

const QUEUE_SIZE: u16 = 256;
/// Descriptors of the control queue.
const CONTROL_SIZE: u16 = 64;
/// Of a device with one pair, two and more. With one there is nothing to control.
const QUEUE_SIZES: [&[u16]; MAX_NET_QUEUES as usize] = [
    &[QUEUE_SIZE; 2],
    &[QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE],
    &[QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE],
    &[
        QUEUE_SIZE,
        QUEUE_SIZE,
        QUEUE_SIZE,
        QUEUE_SIZE,
        QUEUE_SIZE,
        QUEUE_SIZE,
        QUEUE_SIZE,
        QUEUE_SIZE,
        CONTROL_SIZE,
    ],
];
/// Queues of a pair.
const PAIR: usize = 2;
/// Data of the control queue's events.
const CONTROL: u32 = pair::NEXT_EVENT;

/// Why there is no network device.
#[derive(Debug, thiserror::Error)]
#[error("the tap with descriptor {fd} (nets[].tap_fds): {what}: {source}")]
pub struct TapError {
    fd: i32,
    what: &'static str,
    source: io::Error,
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

/// A pair of queues beyond the first: its share in the limits, and its thread.
pub struct Lane {
    /// Its share.
    pub limits: Limits,
    /// Its thread.
    pub worker: WorkerHandle,
}

/// What a driver has set up beside the pairs.
struct Active {
    features: u64,
    interrupt: Interrupt,
    control: Option<VirtQueue>,
    /// Queues that there are no uses for, as the driver does without several pairs.
    unused: Vec<VirtQueue>,
}

/// The device.
pub struct Net {
    /// The first queue of the tap, by which all of it is set; without one there is no tap.
    tap: Option<OwnedFd>,
    first: Pair,
    others: Vec<OtherPair>,
    /// How many pairs the driver uses. The first is always one of them.
    used: u16,
    active: Option<Active>,
}

impl Net {
    /// A device over the tap of `config`, which is number `index`, within `limits`; `lanes` are for the pairs beyond the
    /// first.
    ///
    /// # Errors
    /// [`TapError`], for example when a descriptor is no tap's.
    pub fn new(
        index: usize,
        config: &NetConfig,
        limits: Limits,
        lanes: Vec<Lane>,
        totals: statistics::Shared,
    ) -> Result<Self, TapError> {
        let tally = |pair| Tally::new(index, pair, totals.clone());
        let mut queues = config.tap_fds.iter();
        let first = queues.next().map(|fd| inherit_tap(*fd)).transpose()?;
        let copied = |tap: &OwnedFd| {
            let fd = config.tap_fds.first().copied().unwrap_or_default();
            tap.try_clone().map_err(|source| TapError { fd, what: "it cannot be copied", source })
        };
        let tap = first.as_ref().map(copied).transpose()?;
        let first = Pair::new(first, config.mtu, limits, tally(0));
        let mut others = Vec::new();
        for (number, Lane { limits, worker }) in lanes.into_iter().enumerate() {
            let queue = queues.next().map(|fd| inherit_queue(*fd)).transpose()?;
            others.push(OtherPair::new(queue, config.mtu, limits, tally(number + 1), worker)?);
        }
        Ok(Self { tap, first, others, used: 1, active: None })
    }

    /// What the transport has to know of a device with so many pairs of queues.
    pub fn identity(mac: [u8; 6], mtu: u16, pairs: u8) -> Identity {
        let pairs = pairs.clamp(1, MAX_NET_QUEUES);
        // `struct virtio_net_config`: mac, status, max_virtqueue_pairs, mtu.
        let mut config = mac.to_vec();
        config.extend([0; 2]);
        config.extend(u16::from(pairs).to_le_bytes());
        config.extend(mtu.to_le_bytes());
        let several = if pairs > 1 { 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ } else { 0 };
        let features = F_COMMON
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MTU
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | several
            | offload::features();
        Identity {
            kind: ID,
            features,
            queue_sizes: QUEUE_SIZES[usize::from(pairs) - 1],
            required_queues: PAIR,
            config: Arc::new(ConfigSpace::new(config)),
        }
    }

    /// From now on the driver uses the first `pairs` pairs of those it has set up; false: there are not so many.
    fn use_pairs(&mut self, pairs: u16) -> bool {
        let set_up = self.others.iter().take_while(|other| other.is_set_up()).count();
        if pairs == 0 || usize::from(pairs) > 1 + set_up {
            return false;
        }
        for (number, other) in self.others.iter_mut().enumerate() {
            if let Err(error) = other.use_it(number + 1 < usize::from(pairs)) {
                crate::fact!("net: pair {} of queues: {error}", number + 1);
                return false;
            }
        }
        self.used = pairs;
        true
    }

    fn control(&mut self, ops: &mut EventOps) {
        let Some(mut active) = self.active.take() else { return };
        if let Some(queue) = &mut active.control {
            let _ = queue.kick.read();
            if let Err(error) = control::serve(queue, |pairs| self.use_pairs(pairs)) {
                let _ = ops.remove(Events::empty(&queue.kick));
                active.interrupt.needs_reset(&error);
            }
        }
        self.active = Some(active);
    }
}

/// A tap that was handed to this process.
fn inherit_tap(fd: i32) -> Result<OwnedFd, TapError> {
    let failed = |what| move |source| TapError { fd, what, source };
    let tap = inherit_queue(fd)?;
    sys::set_vnet_header_size(tap.as_fd(), HEADER as i32)
        .map_err(failed("it is no tap with IFF_VNET_HDR"))?;
    sys::set_offloads(tap.as_fd(), 0).map_err(failed("it takes no offload settings"))?;
    Ok(tap)
}

fn inherit_queue(fd: i32) -> Result<OwnedFd, TapError> {
    let failed = |what| move |source| TapError { fd, what, source };
    let queue = sys::inherit(fd).map_err(failed("it was not inherited"))?;
    sys::set_nonblocking(queue.as_fd()).map_err(failed("fcntl"))?;
    Ok(queue)
}

impl Device for Net {
    fn activate(&mut self, activation: Activation) {
        let Activation { features, queues, interrupt, restored } = activation;
        let offloads = offload::tap_flags(features);
        if let Some(Err(error)) = self.tap.as_ref().map(|tap| sys::set_offloads(tap.as_fd(), offloads)) {
            crate::fact!("net: the tap refuses offloads: {error}");
        }
        let mut queues = queues.into_iter().peekable();
        let mut pair = || Activation {
            features,
            queues: queues.by_ref().take(PAIR).collect(),
            interrupt: interrupt.clone(),
            restored,
        };
        self.first.activate(pair());
        // Without the feature there is one pair, and the control queue, if any, comes next (5.1.2).
        if features & 1 << VIRTIO_NET_F_MQ != 0 {
            for other in &mut self.others {
                other.prepare(pair());
            }
        }
        let controls = features & 1 << VIRTIO_NET_F_CTRL_VQ != 0;
        let control = queues.next_if(|queue| controls && queue.ready());
        self.active = Some(Active { features, interrupt, control, unused: queues.collect() });
        // A driver says how many it uses once it runs (5.1.6.5.5), and need not say it again to a clone's device.
        let _ = self.use_pairs(restored.unwrap_or(1));
    }

    fn deactivate(&mut self) {
        for other in &mut self.others {
            if let Err(error) = other.stop() {
                crate::fact!("net: a pair of queues: {error}");
            }
        }
        self.used = 1;
        self.active = None;
        self.first.deactivate();
        if let Some(tap) = &self.tap {
            let _ = sys::set_offloads(tap.as_fd(), 0);
        }
    }

    fn save(&mut self) -> Result<Vec<QueueState>, Busy> {
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let mut states = self.first.save()?;
        if active.features & 1 << VIRTIO_NET_F_MQ != 0 {
            for other in &mut self.others {
                states.extend(other.save()?);
            }
        }
        let rest = active.control.iter().chain(&active.unused);
        states.extend(rest.map(VirtQueue::state));
        Ok(states)
    }

    fn own_state(&self) -> u16 {
        self.used
    }
}

impl MutEventSubscriber for Net {
    fn init(&mut self, ops: &mut EventOps) {
        self.first.init(ops);
        let Some(Active { control: Some(queue), interrupt, .. }) = &self.active else { return };
        if let Err(error) = ops.add(Events::with_data(&queue.kick, CONTROL, EventSet::IN)) {
            interrupt.needs_reset(&format_args!("its control queue cannot be watched: {error}"));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            CONTROL => self.control(ops),
            _ => self.first.process(events, ops),
        }
    }
}
