//! QEMU, with which the benchmarks compare the monitor.

use std::process::{Child, Command, Stdio};

use crate::Process;

/// Its smallest machine on the host's KVM, with a serial port and `memory_mib` MiB; what else it has, and what it runs,
/// is the caller's to add.
pub fn microvm(acpi: bool, memory_mib: u32) -> Command {
    let acpi = if acpi { "on" } else { "off" };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            // A host that has no say in its mitigations may refuse what this would set.
            "-cpu",
            "host,arch-capabilities=off",
            "-smp",
            "1",
        ])
        .args(["-M", &format!("microvm,accel=kvm,acpi={acpi},pit=off,pic=off,rtc=off,isa-serial=on")])
        .args(["-m", &format!("{memory_mib}M")])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .stdin(Stdio::null());
    command
}

/// A running QEMU; it ends with this value.
#[derive(Debug)]
pub struct Qemu(pub Child);

impl Qemu {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Qemu {
        Qemu(command.spawn().expect("start qemu-system-x86_64"))
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process(i32::try_from(self.0.id()).expect("a process id"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
