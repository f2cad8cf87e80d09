//! A slot: a block device whose medium comes and goes.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::medium::Medium;
use super::pool::{Lane, Pool};
use crate::virtio::{ConfigSpace, Interrupt, WorkerError, WorkerHandle};

/// Why a slot did not take or give its medium.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Taken.
    #[error("block slot {0} holds a medium already; detach it first")]
    Full(u8),
    /// Nothing there.
    #[error("block slot {0} is empty")]
    Empty(u8),
    /// The device's thread is gone.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

enum Place {
    Empty,
    Full(Arc<Medium>),
    /// Requests use what has been taken out.
    Leaving,
}

/// Shared by the device, which reads and writes, and the control socket, which exchanges the medium.
pub struct Slot {
    number: u8,
    place: Mutex<Place>,
    lane: Arc<Lane>,
    config: Arc<ConfigSpace>,
    interrupt: Interrupt,
    worker: WorkerHandle,
}

impl Slot {
    /// An empty slot of the device with this configuration space and interrupt, which is in `worker`'s loop and has
    /// `pool` wait for disks.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(
        number: u8,
        config: Arc<ConfigSpace>,
        interrupt: Interrupt,
        worker: WorkerHandle,
        pool: &Pool,
    ) -> io::Result<Self> {
        let lane = Lane::new(pool)?;
        Ok(Self { number, place: Mutex::new(Place::Empty), lane, config, interrupt, worker })
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The way of its requests to the threads that wait for disks.
    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The medium. Whoever holds it must be done with it before the worker's loop turns, or have it in the lane by then.
    pub fn medium(&self) -> Option<Arc<Medium>> {
        match &*self.lock() {
            Place::Full(medium) => Some(Arc::clone(medium)),
            Place::Empty | Place::Leaving => None,
        }
    }

    /// Puts a medium in and tells the driver its size.
    ///
    /// # Errors
    /// [`SlotError::Full`].
    pub fn attach(&self, medium: Medium) -> Result<(), SlotError> {
        let mut place = self.lock();
        if !matches!(*place, Place::Empty) {
            return Err(SlotError::Full(self.number));
        }
        self.set_capacity(medium.sectors());
        *place = Place::Full(Arc::new(medium));
        Ok(())
    }

    /// Takes the medium out; its files are closed and no request uses them when this returns.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn detach(&self) -> Result<(), SlotError> {
        let medium = {
            let mut place = self.lock();
            match std::mem::replace(&mut *place, Place::Leaving) {
                Place::Full(medium) => medium,
                other => {
                    *place = other;
                    return Err(SlotError::Empty(self.number));
                }
            }
        };
        self.set_capacity(0);
        // The loop has no hold of it after this, and what is in the lane is the last.
        self.worker.barrier()?;
        self.lane.wait();
        drop(medium);
        *self.lock() = Place::Empty;
        Ok(())
    }

    /// `capacity` is the configuration's first field.
    fn set_capacity(&self, sectors: u64) {
        self.config.update(0, &sectors.to_le_bytes());
        self.interrupt.signal_config();
    }
}
