//! A device's interrupt line and the status by which the driver learns its reason.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// `DEVICE_NEEDS_RESET`.
const NEEDS_RESET: u32 = 64;
const DRIVER_OK: u32 = 4;

#[derive(Debug)]
struct Inner {
    line: EventFd,
    reasons: AtomicU32,
    /// The device status register: here, because a device may have to set one of its bits.
    status: AtomicU32,
    broken: crate::log::Budget,
}

/// Shared by the transport and the device.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Inner>);

impl Interrupt {
    /// Interrupts by `line`, which KVM turns into an edge of a pin.
    pub fn new(line: EventFd) -> Self {
        let broken = crate::log::Budget::new(5);
        Self(Arc::new(Inner { line, reasons: AtomicU32::new(0), status: AtomicU32::new(0), broken }))
    }

    /// An interrupt of its own line, for tests.
    ///
    /// # Errors
    /// When there are no descriptors left.
    #[cfg(test)]
    pub fn detached() -> io::Result<Self> {
        Ok(Self::new(EventFd::new(libc::EFD_NONBLOCK)?))
    }

    fn raise(&self, reason: u32) -> io::Result<()> {
        self.0.reasons.fetch_or(reason, Ordering::SeqCst);
        self.0.line.write(1)
    }

    /// "Used buffer notification".
    pub fn signal_queue(&self) {
        // The line's counter cannot overflow: KVM empties it.
        let _ = self.raise(1);
    }

    /// "Configuration change notification", if there is a driver to tell.
    pub fn signal_config(&self) {
        if self.status() & DRIVER_OK != 0 {
            let _ = self.raise(2);
        }
    }

    /// Interrupts once more for what the driver has not acknowledged, if there is anything: an edge that was under way when
    /// a snapshot was made is not in it.
    pub fn signal_again(&self) {
        if self.reasons() != 0 {
            let _ = self.raise(0);
        }
    }

    /// Says that the driver broke the rules: the device does nothing more until it is reset.
    pub fn needs_reset(&self, why: &dyn std::fmt::Display) {
        self.0.broken.line(format_args!("a virtio device needs a reset: {why}"));
        let before = self.0.status.fetch_or(NEEDS_RESET, Ordering::SeqCst);
        if before & DRIVER_OK != 0 {
            let _ = self.raise(2);
        }
    }

    /// `InterruptStatus`.
    pub fn reasons(&self) -> u32 {
        self.0.reasons.load(Ordering::SeqCst)
    }

    /// `InterruptACK`.
    pub fn acknowledge(&self, reasons: u32) {
        self.0.reasons.fetch_and(!reasons, Ordering::SeqCst);
    }

    /// `Status`.
    pub fn status(&self) -> u32 {
        self.0.status.load(Ordering::SeqCst)
    }

    /// Puts `Status` and `InterruptStatus` back to what they were in a snapshot.
    pub fn restore(&self, status: u32, reasons: u32) {
        self.0.status.store(status, Ordering::SeqCst);
        self.0.reasons.store(reasons, Ordering::SeqCst);
    }

    /// Sets bits of `Status`.
    pub fn add_status(&self, bits: u32) {
        self.0.status.fetch_or(bits, Ordering::SeqCst);
    }

    /// Forgets everything, as a reset does.
    pub fn reset(&self) {
        self.0.status.store(0, Ordering::SeqCst);
        self.0.reasons.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_acknowledged_is_told_again() {
        let interrupt = Interrupt::detached().unwrap();
        for (reasons, told) in [(0, false), (1, true), (2, true)] {
            interrupt.restore(15, reasons);
            interrupt.signal_again();
            assert_eq!((interrupt.0.line.read().is_ok(), interrupt.reasons()), (told, reasons));
        }
    }
}
