//! A queue each way, over a tap's queue.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_queue::QueueState;
use vmm_sys_util::epoll::EventSet;

use super::rx::{self, Receiver};
use super::tally::Tally;
use super::{HEADER, Limits, MAX_FRAME, offload, tx};
use crate::rate::Timer;
use crate::virtio::{Activation, Busy, Device, QueueError};

/// Frames in one direction before others of the same thread have their turn.
const BATCH: usize = 64;

/// The places of the queues in a pair, and the data of their events.
const RX: usize = 0;
const TX: usize = 1;
/// Data of the tap's events.
const TAP: u32 = 2;
/// Data of the events of the limits' timers.
const RX_TURN: u32 = 3;
const TX_TURN: u32 = 4;
/// The first number that is no data of a pair's events.
pub const NEXT_EVENT: u32 = 5;

struct Active {
    activation: Activation,
    receiver: Receiver,
    /// Its events come once; whether it may hold frames is remembered here.
    tap_ready: bool,
}

/// The pair.
pub struct Pair {
    /// Without one it carries nothing.
    tap: Option<OwnedFd>,
    mtu: u16,
    limits: Limits,
    tally: Tally,
    active: Option<Active>,
}

impl Pair {
    /// A pair over a tap's queue, within `limits`.
    pub fn new(tap: Option<OwnedFd>, mtu: u16, limits: Limits, tally: Tally) -> Self {
        Self { tap, mtu, limits, tally, active: None }
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

impl Device for Pair {
    fn activate(&mut self, activation: Activation) {
        let features = activation.features;
        let frame = if offload::large_frames(features) { MAX_FRAME } else { usize::from(self.mtu) + 14 + 8 };
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let receiver = Receiver::new(mergeable, HEADER + frame);
        self.active = Some(Active { activation, receiver, tap_ready: true });
    }

    fn deactivate(&mut self) {
        self.active = None;
        self.limits.leave();
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

impl MutEventSubscriber for Pair {
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
