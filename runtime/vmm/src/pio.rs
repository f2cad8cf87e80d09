//! Dispatch of the guest's port I/O.

use std::sync::{Mutex, PoisonError};

use vm_superio::serial::SerialState;

use crate::console::Console;
use crate::layout;
use crate::power::{self, ExitCell};

/// The machine's I/O ports.
pub struct Ports {
    console: Mutex<Console>,
    exit: ExitCell,
}

impl Ports {
    /// The ports, of which some declare the VM's end in `exit`.
    pub fn new(console: Console, exit: ExitCell) -> Self {
        Self { console: Mutex::new(console), exit }
    }

    /// A guest's `out`.
    pub fn write(&self, port: u16, data: &[u8]) {
        if let Some(register) = serial_register(port) {
            // String output (`outsb`) comes as several bytes for one port.
            let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
            data.iter().for_each(|byte| console.write(register, *byte));
        } else if let Some(exit) = data.first().and_then(|value| power::on_write(port, *value)) {
            self.exit.set(exit);
        }
    }

    /// A guest's `in`. Ports without a device float high, as on real machines.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(register) = serial_register(port) {
            let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
            data.iter_mut().for_each(|byte| *byte = console.read(register));
        } else if matches!(port, layout::SLEEP_CONTROL_PORT..=layout::RESET_PORT | 0x64) {
            data.fill(0);
        }
    }

    /// The console's registers.
    pub fn save(&self) -> SerialState {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).save()
    }

    /// Writes out what the console still holds.
    pub fn flush(&self) {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

fn serial_register(port: u16) -> Option<u8> {
    port.checked_sub(layout::SERIAL_PORT).filter(|register| *register < 8).map(|register| register as u8)
}
