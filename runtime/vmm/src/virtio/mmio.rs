//! The register file of virtio over MMIO, version 2 (virtio 1.2, section 4.2).
//!
//! Only what the specification allows in a state has an effect: features while they are negotiated, queues
//! between FEATURES_OK and DRIVER_OK, and nothing of either afterwards, whatever a guest writes.

use std::sync::Arc;

use event_manager::SubscriberId;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use super::worker::WorkerHandle;
use super::{Activation, BoxedDevice, F_EVENT_IDX, F_VERSION_1, Identity, Interrupt, VirtQueue};
use crate::memory::Memory;

pub use saved::{RestoreError, SaveError, TransportState};

mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_FIRST: u64 = 0x0b0;
    pub const SHM_LAST: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Offset of the register that a driver notifies by; KVM turns writes into events.
pub const QUEUE_NOTIFY: u64 = register::QUEUE_NOTIFY;

mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"HUSK");

/// A device has no descriptor for its queues.
#[derive(Debug, thiserror::Error)]
#[error("no event descriptors for virtio device {kind}: {source}")]
pub struct TransportError {
    /// Device type.
    kind: u32,
    /// What the system said.
    source: std::io::Error,
}

/// Where the device is.
enum Place {
    /// With the transport: no driver runs it.
    Here(BoxedDevice),
    /// In its worker.
    Active(SubscriberId),
    /// Its worker is gone; the VM ends.
    Lost,
}

/// One device's registers.
pub struct MmioTransport {
    identity: Identity,
    place: Place,
    worker: WorkerHandle,
    memory: Memory,
    interrupt: Interrupt,
    queues: Vec<Queue>,
    kicks: Arc<[EventFd]>,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
}

impl MmioTransport {
    /// Registers of `device`, which runs in `worker` once its driver is ready.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn new(
        identity: Identity,
        device: BoxedDevice,
        worker: WorkerHandle,
        memory: Memory,
        interrupt: Interrupt,
    ) -> Result<Self, TransportError> {
        let failed = |source| TransportError { kind: identity.kind, source };
        let queues = identity
            .queue_sizes
            .iter()
            .map(|size| Queue::new(*size).map_err(|error| failed(std::io::Error::other(error.to_string()))))
            .collect::<Result<Vec<_>, _>>()?;
        let kicks = identity
            .queue_sizes
            .iter()
            .map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            identity,
            place: Place::Here(device),
            worker,
            memory,
            interrupt,
            queues,
            kicks,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        })
    }

    /// What KVM is to write when queue number `index` is notified.
    pub fn kicks(&self) -> Arc<[EventFd]> {
        Arc::clone(&self.kicks)
    }

    /// A guest's read at `offset` of the window.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= register::CONFIG {
            return self.identity.config.read(offset - register::CONFIG, data);
        }
        let value = if data.len() == 4 { self.read_register(offset) } else { 0 };
        data.fill(0);
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = value.to_le_bytes();
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => 2,
            register::DEVICE_ID => self.identity.kind,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.identity.features, self.device_features_select),
            register::QUEUE_NUM_MAX => self.selected().map_or(0, |queue| u32::from(queue.max_size())),
            register::QUEUE_READY => self.selected().map_or(0, |queue| u32::from(queue.ready())),
            register::INTERRUPT_STATUS => self.interrupt.reasons(),
            register::STATUS => self.interrupt.status(),
            // No shared memory region: all ones (4.2.2.1).
            register::SHM_FIRST..=register::SHM_LAST => u32::MAX,
            register::CONFIG_GENERATION => self.identity.config.generation(),
            _ => 0,
        }
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(self.queue_select as usize)
    }

    /// A guest's write at `offset` of the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_select = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::DRIVER_FEATURES => self.set_driver_features(value),
            register::QUEUE_SEL => self.queue_select = value,
            register::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::STATUS => self.set_status(value),
            // Only reached when KVM has no event for it.
            register::QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    let _ = kick.write(1);
                }
            }
            _ => self.set_up_queue(offset, value),
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        let status = self.interrupt.status();
        if status & status::DRIVER == 0 || status & (status::FEATURES_OK | status::FAILED) != 0 {
            return;
        }
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.driver_features &= !(u64::from(u32::MAX) << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        let status = self.interrupt.status();
        let allowed = status & status::FEATURES_OK != 0
            && status & (status::DRIVER_OK | status::NEEDS_RESET | status::FAILED) == 0;
        let Some(queue) = self.queues.get_mut(self.queue_select as usize).filter(|_| allowed) else { return };
        if offset == register::QUEUE_READY {
            return queue.set_ready(value & 1 != 0);
        }
        // 4.2.2.2: the rest must not be touched while the queue is ready.
        if queue.ready() {
            return;
        }
        match offset {
            register::QUEUE_NUM => match u16::try_from(value) {
                Ok(size) if size.is_power_of_two() && size <= queue.max_size() => queue.set_size(size),
                _ => self.interrupt.needs_reset(&format_args!("queue size {value}")),
            },
            register::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            register::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// Status bits come one after the other and go only by a reset (3.1.1).
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let now = self.interrupt.status();
        if value & status::FAILED != 0 {
            self.interrupt.add_status(status::FAILED);
            return;
        }
        let new = value & !now;
        for (bit, needs) in [
            (status::ACKNOWLEDGE, 0),
            (status::DRIVER, status::ACKNOWLEDGE),
            (status::FEATURES_OK, status::DRIVER),
            (status::DRIVER_OK, status::FEATURES_OK),
        ] {
            if new & bit == 0 || self.interrupt.status() & needs != needs {
                continue;
            }
            match bit {
                status::FEATURES_OK => self.accept_features(),
                status::DRIVER_OK => self.activate(),
                _ => self.interrupt.add_status(bit),
            }
        }
    }

    /// FEATURES_OK stays clear when the driver wants what was not offered, or is of before virtio 1.0.
    fn accept_features(&mut self) {
        let unknown = self.driver_features & !self.identity.features;
        if unknown == 0 && self.driver_features & F_VERSION_1 != 0 {
            self.interrupt.add_status(status::FEATURES_OK);
        }
    }

    fn activate(&mut self) {
        if self.interrupt.status() & (status::NEEDS_RESET | status::FAILED) != 0 {
            return;
        }
        let memory = self.memory.memory();
        let bad = |(index, queue): (usize, &Queue)| !self.leaves(index, queue) && !queue.is_valid(&*memory);
        if let Some(index) = self.queues.iter().enumerate().position(bad) {
            return self.interrupt.needs_reset(&format_args!("queue {index} is not ready or not in memory"));
        }
        let device = match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Here(device) => device,
            place => {
                self.place = place;
                return;
            }
        };
        // What an earlier driver left behind must not wake the device.
        self.kicks.iter().for_each(|kick| drop(kick.read()));
        match self.start(device, None).and_then(|device| Ok(self.worker.add(device)?)) {
            Ok(id) => {
                self.place = Place::Active(id);
                self.interrupt.add_status(status::DRIVER_OK);
                // Buffers may have been made available before.
                self.kicks.iter().for_each(|kick| drop(kick.write(1)));
            }
            Err(error) => self.interrupt.needs_reset(&error),
        }
    }

    /// Whether queue number `index` is one that the driver does without.
    fn leaves(&self, index: usize, queue: &Queue) -> bool {
        index >= self.identity.required_queues && !queue.ready()
    }

    /// Gives a device its queues.
    fn start(
        &mut self,
        mut device: BoxedDevice,
        restored: Option<u16>,
    ) -> Result<BoxedDevice, Box<dyn std::error::Error + Send + Sync>> {
        let mut queues = Vec::new();
        for (queue, kick) in self.queues.iter_mut().zip(self.kicks.iter()) {
            queue.set_event_idx(self.driver_features & F_EVENT_IDX != 0);
            queues.push(VirtQueue {
                queue: Queue::try_from(queue.state())?,
                kick: kick.try_clone()?,
                memory: self.memory.clone(),
                interrupt: self.interrupt.clone(),
            });
        }
        device.activate(Activation {
            features: self.driver_features,
            queues,
            interrupt: self.interrupt.clone(),
            restored,
        });
        Ok(device)
    }

    /// Returns when the device has stopped.
    fn reset(&mut self) {
        if let Place::Active(id) = self.place {
            self.place = match self.worker.remove(id) {
                Ok(mut device) => {
                    device.deactivate();
                    Place::Here(device)
                }
                Err(error) => {
                    crate::fact!("{error}");
                    Place::Lost
                }
            };
        }
        self.queues.iter_mut().for_each(Queue::reset);
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.interrupt.reset();
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

mod saved;
#[cfg(test)]
mod tests;
