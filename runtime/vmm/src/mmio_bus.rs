//! Dispatch of the guest's MMIO to the virtio windows.

use std::sync::{Mutex, PoisonError};

use crate::layout;
use crate::virtio::MmioTransport;

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
