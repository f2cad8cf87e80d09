//! How a VM ends, and the registers by which a guest ends it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::layout;

/// Why the VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset: a reboot, or a panic of its kernel.
    Reset,
    /// A vCPU faulted three deep; the guest's kernel is broken or asked for it (`reboot=t`).
    TripleFault,
    /// The control socket's [`Request::Stop`](crate::control::Request::Stop), or a signal.
    Stopped,
    /// The host's KVM or the monitor failed; why.
    Failed(String),
}

impl Exit {
    /// The monitor's exit status: 0 for what was asked for, and a value of its own for each other end.
    pub fn status(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Stopped => 0,
            Self::Failed(_) => 1,
            Self::Reset => 3,
            Self::TripleFault => 4,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest reset itself (reboot or kernel panic)"),
            Self::TripleFault => f.write_str("a vCPU of the guest triple-faulted"),
            Self::Stopped => f.write_str("stopped on request"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// The end of the VM, which any thread may declare and one waits for. The first declaration counts.
#[derive(Clone, Debug, Default)]
pub struct ExitCell(Arc<(Mutex<Option<Exit>>, Condvar)>);

impl ExitCell {
    /// Declares the end.
    pub fn set(&self, exit: Exit) {
        let (cell, changed) = &*self.0;
        cell.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(exit);
        changed.notify_all();
    }

    /// Waits for the end.
    pub fn wait(&self) -> Exit {
        let (cell, changed) = &*self.0;
        let mut exit = cell.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*exit {
                Some(exit) => return exit.clone(),
                None => exit = changed.wait(exit).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Whether the end was declared.
    pub fn is_set(&self) -> bool {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// What a write of `value` to an I/O port does to the machine's power, if anything.
pub fn on_write(port: u16, value: u8) -> Option<Exit> {
    /// Command port of the i8042 keyboard controller, and its command "pulse the reset line".
    const I8042: (u16, u8) = (0x64, 0xfe);
    /// PCI reset control register; bit 2 starts the reset.
    const PCI_RESET: (u16, u8) = (0xcf9, 1 << 2);
    /// `SLP_EN` and where `SLP_TYP` is (ACPI 6.5, table 4.20).
    const SLEEP_ENABLE: u8 = 1 << 5;
    const SLEEP_TYPE_SHIFT: u8 = 2;

    match port {
        layout::SLEEP_CONTROL_PORT => {
            let kind = (value >> SLEEP_TYPE_SHIFT) & 7;
            (value & SLEEP_ENABLE != 0 && kind == layout::SLEEP_TYPE_S5).then_some(Exit::PowerOff)
        }
        layout::RESET_PORT => (value == layout::RESET_VALUE).then_some(Exit::Reset),
        port if port == I8042.0 => (value == I8042.1).then_some(Exit::Reset),
        port if port == PCI_RESET.0 => (value & PCI_RESET.1 != 0).then_some(Exit::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enabled_s5_powers_off() {
        assert_eq!(on_write(layout::SLEEP_CONTROL_PORT, 5 << 2 | 1 << 5), Some(Exit::PowerOff));
        assert_eq!(on_write(layout::SLEEP_CONTROL_PORT, 5 << 2), None);
        assert_eq!(on_write(layout::SLEEP_CONTROL_PORT, 3 << 2 | 1 << 5), None);
    }

    #[test]
    fn every_reset_register_resets() {
        assert_eq!(on_write(layout::RESET_PORT, 1), Some(Exit::Reset));
        assert_eq!(on_write(0x64, 0xfe), Some(Exit::Reset));
        assert_eq!(on_write(0xcf9, 6), Some(Exit::Reset));
        assert_eq!(on_write(0x64, 0xd1), None);
        assert_eq!(on_write(0xcf9, 2), None);
    }

    #[test]
    fn the_first_end_counts() {
        let cell = ExitCell::default();
        assert!(!cell.is_set());
        cell.set(Exit::PowerOff);
        cell.set(Exit::Reset);
        assert_eq!(cell.wait(), Exit::PowerOff);
    }
}
