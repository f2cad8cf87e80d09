//! Where things are in the guest's physical address space and among its interrupts.
//!
//! ```text
//! 0x0000_0500  GDT                      0xD000_0000  virtio-mmio windows, 4 KiB each
//! 0x0000_7000  boot_params              0xFEC0_0000  I/O APIC
//! 0x0000_9000  page tables              0xFEE0_0000  local APICs
//! 0x0002_0000  command line             0xFFFB_C000  KVM's identity map and TSS pages
//! 0x000E_0000  ACPI tables              0x1_0000_0000  memory past the first 3 GiB
//! 0x0010_0000  kernel, initramfs on top of low memory
//! ```

/// Low memory ends here when the guest has more; the rest starts at [`HIGH_MEMORY`].
pub const LOW_MEMORY_MAX: u64 = 3 << 30;
/// Where memory goes on past the hole for devices.
pub const HIGH_MEMORY: u64 = 4 << 30;

/// Boot GDT.
pub const GDT: u64 = 0x500;
/// Boot IDT (empty).
pub const IDT: u64 = 0x520;
/// `struct boot_params` ("zero page") of Linux' boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack that the kernel's first instructions may use.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Top page table; the next two pages hold the lower levels.
pub const PML4: u64 = 0x9000;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes of the command line that x86 Linux accepts (`COMMAND_LINE_SIZE`), the NUL included.
pub const CMDLINE_MAX: usize = 2048;
/// End of the memory below 640 KiB that the e820 map gives to the kernel.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables (RSDP first); the BIOS area that the e820 map reserves.
pub const ACPI: u64 = 0xe_0000;
/// End of the BIOS area, and the lowest address of the kernel.
pub const HIMEM: u64 = 0x10_0000;

/// First virtio-mmio window.
pub const MMIO_BASE: u64 = 0xd000_0000;
/// Bytes of one virtio-mmio window.
pub const MMIO_STRIDE: u64 = 0x1000;
/// I/O APIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Page of KVM's identity map (Intel hosts without unrestricted guest).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages of KVM's TSS (likewise).
pub const KVM_TSS: usize = 0xfffb_d000;

/// Pin of the serial port.
pub const SERIAL_IRQ: u32 = 4;
/// Pin of the first virtio device; each has one of its own, because edge-triggered pins cannot be shared.
pub const FIRST_IRQ: u32 = 5;
/// Pins of KVM's I/O APIC.
pub const IRQS: u32 = 24;
/// The most virtio devices that a VM can have.
pub const MAX_DEVICES: usize = (IRQS - FIRST_IRQ) as usize + 1;
/// Pin of the last of them.
const SPARE_IRQ: u32 = 3;

/// First port of the 16550.
pub const SERIAL_PORT: u16 = 0x3f8;
/// ACPI sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register (4.8.3.6).
pub const RESET_PORT: u16 = 0x602;
/// What a write to the reset register must be.
pub const RESET_VALUE: u8 = 1;
/// `SLP_TYP` of the soft-off state, as `_S5` says.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Window of virtio device `index`.
pub fn mmio_window(index: usize) -> u64 {
    MMIO_BASE + index as u64 * MMIO_STRIDE
}

/// Pin of virtio device `index`; the last has one below the others', which a PC's second serial port would have.
pub fn irq(index: usize) -> u32 {
    let pin = FIRST_IRQ + index as u32;
    if pin < IRQS { pin } else { SPARE_IRQ }
}
