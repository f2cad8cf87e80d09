//! A device's registers in a snapshot.

use event_manager::SubscriberId;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestAddressSpace;

use super::{F_EVENT_IDX, F_VERSION_1, MmioTransport, Place, status};
use crate::virtio::{BoxedDevice, Busy, WorkerError, WorkerHandle};

/// All that a driver can have set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    kind: u32,
    status: u32,
    interrupt_reasons: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    own: u16,
    queues: Vec<SavedQueue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedQueue {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

impl From<QueueState> for SavedQueue {
    fn from(state: QueueState) -> Self {
        let QueueState { max_size, next_avail, next_used, event_idx_enabled, size, ready, .. } = state;
        let QueueState { desc_table, avail_ring, used_ring, .. } = state;
        Self {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        }
    }
}

impl From<&SavedQueue> for QueueState {
    fn from(saved: &SavedQueue) -> Self {
        Self {
            max_size: saved.max_size,
            next_avail: saved.next_avail,
            next_used: saved.next_used,
            event_idx_enabled: saved.event_idx_enabled,
            size: saved.size,
            ready: saved.ready,
            desc_table: saved.desc_table,
            avail_ring: saved.avail_ring,
            used_ring: saved.used_ring,
        }
    }
}

/// Why a device is not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It is at work.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Its driver broke the rules, or gave up.
    #[error("its driver has left it in status {0:#x}")]
    Status(u32),
    /// Its thread is gone.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Likewise.
    #[error("its thread is gone")]
    Lost,
}

/// Why a device does not go on from a state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state is another device's.
    #[error("its {what} is {saved:#x}, and the device's is {own:#x}")]
    Other {
        /// What differs.
        what: &'static str,
        /// In the state.
        saved: u64,
        /// Of the device.
        own: u64,
    },
    /// No driver can have done this.
    #[error("its {what} of {value:#x} cannot be")]
    Impossible {
        /// The register.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A queue.
    #[error("its queue {0} is not in the guest's memory, or of no possible size")]
    Queue(usize),
    /// The device does not start.
    #[error("it does not start: {0}")]
    Start(String),
}

const RUNNING: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

impl MmioTransport {
    /// The registers of a VM whose vCPUs stand still.
    ///
    /// # Errors
    /// [`SaveError`]; the device goes on as before.
    pub fn save(&mut self) -> Result<TransportState, SaveError> {
        let status = self.interrupt.status();
        if status & !RUNNING != 0 {
            return Err(SaveError::Status(status));
        }
        let (queues, own) = match self.place {
            Place::Here(_) => (self.queues.iter().map(Queue::state).collect(), 0),
            Place::Active(id) => {
                // Out of its loop it is not at work.
                self.place = Place::Lost;
                let mut device = self.worker.remove(id)?;
                let (saved, own) = (device.save(), device.own_state());
                self.place = Place::Active(self.worker.add(device)?);
                (saved?, own)
            }
            Place::Lost => return Err(SaveError::Lost),
        };
        if queues.len() != self.queues.len() {
            return Err(SaveError::Status(status));
        }
        Ok(TransportState {
            kind: self.identity.kind,
            status,
            interrupt_reasons: self.interrupt.reasons(),
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            own,
            queues: queues.into_iter().map(SavedQueue::from).collect(),
        })
    }

    /// Has a device that has had no driver yet take up `state`, in which nothing is taken on trust. One whose driver runs
    /// it is answered: it is to be handed to its worker, and [`Self::restored`] told of it.
    ///
    /// # Errors
    /// [`RestoreError`]; the device is of no use then.
    pub fn restore(&mut self, state: &TransportState) -> Result<Option<BoxedDevice>, RestoreError> {
        if !matches!(self.place, Place::Here(_)) {
            return Err(RestoreError::Start("it has a driver already".to_owned()));
        }
        let queues = self.check(state)?;
        self.driver_features = state.driver_features;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.queues = queues;
        self.interrupt.restore(state.status & !status::DRIVER_OK, state.interrupt_reasons);
        if state.status & status::DRIVER_OK == 0 {
            return Ok(None);
        }
        let Place::Here(device) = std::mem::replace(&mut self.place, Place::Lost) else { return Ok(None) };
        self.start(device, Some(state.own)).map(Some).map_err(|error| RestoreError::Start(error.to_string()))
    }

    /// The worker that a device of [`Self::restore`]'s is for.
    pub fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// The device has gone to its worker, and goes on.
    pub fn restored(&mut self, id: SubscriberId) {
        self.place = Place::Active(id);
        self.interrupt.add_status(status::DRIVER_OK);
        // Of buffers that the driver has made available the device may not have heard.
        self.kicks.iter().for_each(|kick| drop(kick.write(1)));
        self.interrupt.signal_again();
    }

    fn check(&self, state: &TransportState) -> Result<Vec<Queue>, RestoreError> {
        let same = |what, saved: u64, own: u64| match saved == own {
            true => Ok(()),
            false => Err(RestoreError::Other { what, saved, own }),
        };
        let possible = |what, value: u64, good: bool| match good {
            true => Ok(()),
            false => Err(RestoreError::Impossible { what, value }),
        };
        same("device type", state.kind.into(), self.identity.kind.into())?;
        same("number of queues", state.queues.len() as u64, self.queues.len() as u64)?;
        // Each bit needs those below it (3.1.1), whose order is not that of their values.
        let ladder = [
            0,
            status::ACKNOWLEDGE,
            status::ACKNOWLEDGE | status::DRIVER,
            RUNNING & !status::DRIVER_OK,
            RUNNING,
        ];
        possible("status", state.status.into(), ladder.contains(&state.status))?;
        possible("interrupt status", state.interrupt_reasons.into(), state.interrupt_reasons & !3 == 0)?;
        if state.status & status::FEATURES_OK != 0 {
            let good = state.driver_features & !self.identity.features == 0
                && state.driver_features & F_VERSION_1 != 0;
            possible("set of features", state.driver_features, good)?;
        }
        let running = state.status & status::DRIVER_OK != 0;
        let event_idx = state.driver_features & F_EVENT_IDX != 0;
        let memory = self.memory.memory();
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, (saved, own)) in state.queues.iter().zip(&self.queues).enumerate() {
            same("queues' greatest size", saved.max_size.into(), own.max_size().into())?;
            let queue = Queue::try_from(QueueState::from(saved)).map_err(|_| RestoreError::Queue(index))?;
            let usable = self.leaves(index, &queue) || queue.is_valid(&*memory);
            if running && (!usable || saved.event_idx_enabled != event_idx) {
                return Err(RestoreError::Queue(index));
            }
            queues.push(queue);
        }
        Ok(queues)
    }
}
