//! Virtio 1.2: what is common to all devices, and the transport over MMIO.

mod chain;
mod config_space;
mod interrupt;
mod mmio;
mod served;
#[cfg(test)]
pub mod testing;
mod worker;

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use chain::{Chain, ChainError};
pub use config_space::ConfigSpace;
pub use interrupt::Interrupt;
pub use mmio::{MmioTransport, QUEUE_NOTIFY, RestoreError, SaveError, TransportError, TransportState};
pub use served::{Serve, Served};
pub use worker::{WorkerError, WorkerHandle};

use crate::memory::Memory;

/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_INDIRECT_DESC`.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// What every device offers beside its own.
pub const F_COMMON: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// Chains of one queue that are served before others of the same thread have their turn.
pub const BATCH: usize = 16;

/// A device between its driver's DRIVER_OK and the next reset lives in a worker's event loop; before and
/// after, the transport holds it.
pub trait Device: MutEventSubscriber + Send {
    /// Starts with the queues that the driver has set up. Descriptors are registered in
    /// [`MutEventSubscriber::init`], which follows.
    fn activate(&mut self, activation: Activation);

    /// Stops: everything that the driver has given is forgotten. Nothing is in flight when this returns.
    fn deactivate(&mut self);

    /// What a snapshot has to hold of the queues of a device that its driver runs. Nothing is in flight when this
    /// returns: what was has been answered.
    ///
    /// # Errors
    /// [`Busy`] when the device has something that a snapshot cannot hold.
    fn save(&mut self) -> Result<Vec<QueueState>, Busy>;

    /// What a snapshot has to hold beside, for [`Activation::restored`].
    fn own_state(&self) -> u16 {
        0
    }
}

/// What of a device no snapshot can hold, for a person.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Busy(pub String);

/// A device of any kind.
pub type BoxedDevice = Box<dyn Device>;

/// What does not change about a device.
pub struct Identity {
    /// Device type (virtio 1.2, section 5).
    pub kind: u32,
    /// Feature bits offered.
    pub features: u64,
    /// The most descriptors of each queue.
    pub queue_sizes: &'static [u16],
    /// How many of the queues, from the first on, a driver has to set up; it may leave the others.
    pub required_queues: usize,
    /// Its configuration space.
    pub config: Arc<ConfigSpace>,
}

/// What a driver has set up.
pub struct Activation {
    /// Features that both sides have.
    pub features: u64,
    /// The queues, as many as [`Identity::queue_sizes`] has.
    pub queues: Vec<VirtQueue>,
    /// To the driver.
    pub interrupt: Interrupt,
    /// The driver has set all up in the VM that this one is a clone of: [`Device::own_state`] of that one's device, which
    /// is not to be trusted.
    pub restored: Option<u16>,
}

impl Activation {
    /// Has the event loop call the device at kicks of its queues; an event's data is the queue's number.
    pub fn watch_queues(&self, ops: &mut EventOps) {
        for (number, queue) in self.queues.iter().enumerate() {
            if let Err(error) = ops.add(Events::with_data(&queue.kick, number as u32, EventSet::IN)) {
                self.interrupt.needs_reset(&format_args!("its queue {number} cannot be watched: {error}"));
            }
        }
    }

    /// Where the queues are.
    pub fn queue_states(&self) -> Vec<QueueState> {
        self.queues.iter().map(VirtQueue::state).collect()
    }

    /// The driver broke the rules: the device hears no more kicks, and says that it needs a reset.
    pub fn fail(&self, ops: &mut EventOps, error: &dyn std::fmt::Display) {
        for queue in &self.queues {
            let _ = ops.remove(Events::empty(&queue.kick));
        }
        self.interrupt.needs_reset(error);
    }
}

/// A queue and what tells of buffers in it.
pub struct VirtQueue {
    /// The ring.
    pub queue: Queue,
    /// Written by KVM when the driver notifies.
    pub kick: EventFd,
    memory: Memory,
    interrupt: Interrupt,
}

/// The driver broke the rules of its queue: the device stops until it is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Ring indexes or addresses.
    #[error("queue: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// A descriptor chain.
    #[error("descriptor chain: {0}")]
    Chain(#[from] ChainError),
    /// The driver has made a descriptor available that the device still holds.
    #[error("more buffers are available than the queue has descriptors")]
    Overcommitted,
}

impl VirtQueue {
    /// The next chain that the driver has made available.
    ///
    /// # Errors
    /// [`QueueError`] when the driver's ring is impossible; the device needs a reset then.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        use virtio_queue::QueueOwnedT;
        let memory = self.memory.memory().into_inner();
        let Some(chain) = self.queue.iter(&*memory)?.next() else { return Ok(None) };
        Ok(Some(Chain::parse(Arc::clone(&memory), chain)?))
    }

    /// Has `answer` serve what the driver has made available, a batch at most: then others of the same thread have
    /// their turn. It answers how many bytes of a chain's writable part it has written.
    ///
    /// # Errors
    /// [`QueueError`] when the driver's ring is impossible; the device needs a reset then.
    pub fn serve(&mut self, mut answer: impl FnMut(&Chain) -> u32) -> Result<(), QueueError> {
        for _ in 0..BATCH {
            let Some(chain) = self.pop()? else {
                if self.listen()? {
                    continue;
                }
                return self.notify();
            };
            let written = answer(&chain);
            self.give_back(chain.head, written)?;
        }
        self.kick_again();
        self.notify()
    }

    /// Puts back what was popped last, to be popped again later.
    pub fn unpop(&mut self) {
        use virtio_queue::QueueOwnedT;
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back with `written` bytes in its writable part. [`Self::notify`] follows some time.
    ///
    /// # Errors
    /// [`QueueError::Queue`].
    pub fn give_back(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        Ok(self.queue.add_used(&*self.memory.memory(), head, written)?)
    }

    /// Interrupts the driver if it wants to know of what was given back.
    ///
    /// # Errors
    /// [`QueueError::Queue`].
    pub fn notify(&mut self) -> Result<(), QueueError> {
        if self.queue.needs_notification(&*self.memory.memory())? {
            self.interrupt.signal_queue();
        }
        Ok(())
    }

    /// Asks for kicks again; true when there is something to pop already.
    ///
    /// # Errors
    /// [`QueueError::Queue`].
    pub fn listen(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&*self.memory.memory())?)
    }

    /// Where it is.
    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Whether the driver has set it up.
    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// Wakes this queue's device again, for work left over when its share of time was up.
    pub fn kick_again(&self) {
        let _ = self.kick.write(1);
    }

    /// A queue of a test.
    #[cfg(test)]
    pub fn for_test(queue: Queue, memory: Memory, interrupt: Interrupt) -> Self {
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Self { queue, kick, memory, interrupt }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Driver, activation, memory};
    use super::*;
    use std::sync::PoisonError;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    const PLUGGED: u64 = 1 << 30;

    /// The guest unplugs memory, and a driver goes on giving it to a device.
    #[test]
    fn memory_that_is_gone_is_no_buffer_and_one_in_hand_outlives_it() {
        let ranges = [(GuestAddress(0), 256 << 10), (GuestAddress(PLUGGED), 1 << 20)];
        let with = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let (without, _) = with.remove_region(GuestAddress(PLUGGED), 1 << 20).unwrap();
        let rings = without.clone();
        let shared = Memory::new(with);
        let mut active = activation(&shared, 1, 0);
        let (queue, driver) = (&mut active.queues[0], Driver::new(&rings));

        driver.offer(0, 0, &[(PLUGGED, 16, true)]);
        let in_hand = queue.pop().unwrap().unwrap();
        shared.lock().unwrap_or_else(PoisonError::into_inner).replace(without);
        assert!(in_hand.write(0, b"still in hand"));
        queue.give_back(in_hand.head, 13).unwrap();

        driver.offer(1, 1, &[(PLUGGED, 16, true)]);
        let refused = queue.pop().unwrap_err();
        assert!(
            matches!(refused, QueueError::Chain(ChainError::Address { address: PLUGGED, bytes: 16 })),
            "{refused}"
        );
    }

    #[test]
    fn a_queue_is_served_in_turns_and_to_its_end() {
        let memory = memory();
        let mut active = activation(&Memory::new(memory.clone()), 1, 0);
        let (queue, driver) = (&mut active.queues[0], Driver::new(&memory));
        for number in 0..BATCH as u16 + 1 {
            driver.offer(number, number, &[(0x9000, 4, true)]);
        }
        let mut served = 0;
        queue
            .serve(|_| {
                served += 1;
                4
            })
            .unwrap();
        assert_eq!((served, driver.used().0), (BATCH, BATCH as u16));
        queue.kick.read().expect("it has woken itself for the rest");
        queue
            .serve(|_| {
                served += 1;
                4
            })
            .unwrap();
        assert_eq!(served, BATCH + 1);
        assert!(queue.kick.read().is_err());
    }
}
