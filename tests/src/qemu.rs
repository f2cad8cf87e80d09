//! QEMU, with which the benchmarks compare the monitor.

use std::process::Command;

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
            "-cpu",
            "host",
            "-smp",
            "1",
        ])
        .args(["-M", &format!("microvm,accel=kvm,acpi={acpi},pit=off,pic=off,rtc=off,isa-serial=on")])
        .args(["-m", &format!("{memory_mib}M")]);
    command
}
