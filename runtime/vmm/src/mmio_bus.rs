//! Dispatch of the guest's MMIO to the virtio windows.

use std::sync::{Mutex, PoisonError};

use crate::layout;
use crate::snapshot::SnapshotError;
use crate::virtio::{BoxedDevice, MmioTransport, RestoreError, TransportState, WorkerError, WorkerHandle};

/// The windows, one after the other from [`layout::MMIO_BASE`].
pub struct MmioBus(Vec<Mutex<MmioTransport>>);

impl MmioBus {
    /// A bus of these devices.
    pub fn new(devices: Vec<MmioTransport>) -> Self {
        Self(devices.into_iter().map(Mutex::new).collect())
    }

    fn find(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(layout::MMIO_BASE)?;
        let device = self.0.get(usize::try_from(offset / layout::MMIO_STRIDE).ok()?)?;
        Some((device, offset % layout::MMIO_STRIDE))
    }

    /// All devices' registers, while no vCPU runs.
    ///
    /// # Errors
    /// [`SnapshotError::Device`]
    pub fn save(&self) -> Result<Vec<TransportState>, SnapshotError> {
        let save = |(index, device): (usize, &Mutex<MmioTransport>)| {
            let saved = device.lock().unwrap_or_else(PoisonError::into_inner).save();
            saved.map_err(|source| SnapshotError::Device { index, source })
        };
        self.0.iter().enumerate().map(save).collect()
    }

    /// Sets all devices' registers before any vCPU runs.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn restore(&self, states: &[TransportState]) -> Result<(), SnapshotError> {
        if states.len() != self.0.len() {
            let (saved, own) = (states.len(), self.0.len());
            return Err(SnapshotError::Foreign(format!("it has {saved} virtio devices, and this VM {own}")));
        }
        // All of a worker's go there together: each going by itself would be waited for.
        let mut batches: Vec<(WorkerHandle, Vec<usize>, Vec<BoxedDevice>)> = Vec::new();
        for (index, (transport, state)) in self.0.iter().zip(states).enumerate() {
            let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = |source| SnapshotError::Restore { index, source };
            let Some(device) = transport.restore(state).map_err(failed)? else { continue };
            match batches.iter_mut().find(|(worker, ..)| worker == transport.worker()) {
                Some((_, indices, devices)) => {
                    indices.push(index);
                    devices.push(device);
                }
                None => batches.push((transport.worker().clone(), vec![index], vec![device])),
            }
        }
        for (worker, indices, devices) in batches {
            let failed = |error: WorkerError| SnapshotError::Restore {
                index: indices[0],
                source: RestoreError::Start(error.to_string()),
            };
            let ids = worker.add_all(devices).map_err(failed)?;
            for (index, id) in indices.into_iter().zip(ids) {
                self.0[index].lock().unwrap_or_else(PoisonError::into_inner).restored(id);
            }
        }
        Ok(())
    }

    /// A guest's read; where there is nothing, all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// A guest's write.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }
}
