//! A slot: a block device whose medium comes and goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::medium::Medium;
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

/// Shared by the device, which reads and writes, and the control socket, which exchanges the medium.
pub struct Slot {
    number: u8,
    medium: Mutex<Option<Arc<Medium>>>,
    config: Arc<ConfigSpace>,
    interrupt: Interrupt,
    worker: WorkerHandle,
}

impl Slot {
    /// An empty slot of the device with this configuration space and interrupt.
    pub fn new(number: u8, config: Arc<ConfigSpace>, interrupt: Interrupt, worker: WorkerHandle) -> Self {
        Self { number, medium: Mutex::new(None), config, interrupt, worker }
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.number
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Medium>>> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The medium. Whoever holds it must be done with it before the worker's loop turns.
    pub fn medium(&self) -> Option<Arc<Medium>> {
        self.lock().clone()
    }

    /// Puts a medium in and tells the driver its size.
    ///
    /// # Errors
    /// [`SlotError::Full`].
    pub fn attach(&self, medium: Medium) -> Result<(), SlotError> {
        let mut place = self.lock();
        if place.is_some() {
            return Err(SlotError::Full(self.number));
        }
        self.set_capacity(medium.sectors());
        *place = Some(Arc::new(medium));
        Ok(())
    }

    /// Takes the medium out; its files are closed and no request uses them when this returns.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn detach(&self) -> Result<(), SlotError> {
        let medium = {
            let mut place = self.lock();
            let medium = place.take().ok_or(SlotError::Empty(self.number))?;
            self.set_capacity(0);
            medium
        };
        self.worker.barrier()?;
        drop(medium);
        Ok(())
    }

    /// `capacity` is the configuration's first field.
    fn set_capacity(&self, sectors: u64) {
        self.config.update(0, &sectors.to_le_bytes());
        self.interrupt.signal_config();
    }
}
