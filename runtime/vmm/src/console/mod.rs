//! The serial console: a 16550 whose output goes to a bounded file.

mod ring;

use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

pub use ring::RingFile;

/// The 16550's interrupt line.
#[derive(Debug)]
pub struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// The console.
pub struct Console(Serial<Line, NoEvents, RingFile>);

impl Console {
    /// A console that writes to `log` and raises `irq`.
    pub fn new(irq: EventFd, log: RingFile) -> Self {
        Self(Serial::new(Line(irq), log))
    }

    /// As [`Self::new`], with the registers of a snapshot.
    ///
    /// # Errors
    /// When the registers cannot be.
    pub fn restore(irq: EventFd, log: RingFile, state: &SerialState) -> std::io::Result<Self> {
        let serial = Serial::from_state(state, Line(irq), NoEvents, log);
        Ok(Self(
            serial.map_err(|error| std::io::Error::other(format!("the snapshot's registers: {error:?}")))?,
        ))
    }

    /// Its registers.
    pub fn save(&self) -> SerialState {
        self.0.state()
    }

    /// A guest's write of one register.
    pub fn write(&mut self, register: u8, value: u8) {
        // A full disk must not stop the guest: its console is best effort.
        let _ = self.0.write(register, value);
    }

    /// A guest's read of one register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.0.read(register)
    }

    /// Writes out what is still buffered.
    pub fn flush(&mut self) {
        let _ = std::io::Write::flush(self.0.writer_mut());
    }
}
