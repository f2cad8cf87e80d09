//! ACPI tables: a hardware-reduced machine with its CPUs, its interrupt controller, the serial port and one
//! device for each virtio-mmio window. Any kernel with ACPI finds everything by them.

use acpi_tables::aml::{
    self, Device, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::boot::BootError;
use crate::layout;

const OEM: [u8; 6] = *b"HUSK  ";
const TABLE: [u8; 8] = *b"HUSKVM  ";

/// What Linux' virtio-mmio driver looks for.
pub const VIRTIO_MMIO: &str = "LNRO0005";

/// Writes the tables for `vcpus` CPUs and virtio devices with these ids at [`layout::ACPI`].
///
/// # Errors
/// [`BootError::Write`].
pub fn write(memory: &GuestMemoryMmap, vcpus: u8, devices: &[&str]) -> Result<(), BootError> {
    let bytes = tables(vcpus, devices);
    memory
        .write_slice(&bytes, GuestAddress(layout::ACPI))
        .map_err(BootError::write("ACPI tables", layout::ACPI))
}

/// All tables, to be put at [`layout::ACPI`]: the RSDP is first, as the boot protocol is told.
fn tables(vcpus: u8, devices: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len()];
    let dsdt = place(&mut bytes, &dsdt(devices));
    let fadt = place(&mut bytes, &fadt(dsdt));
    let madt = place(&mut bytes, &madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&mut bytes, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    bytes
}

/// Appends a table, aligned to 16 bytes; returns its guest address.
fn place(bytes: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    let address = layout::ACPI + bytes.len() as u64;
    table.to_aml_bytes(bytes);
    address
}

fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    /// `IAPC_BOOT_ARCH`: no VGA, no MSI, no CMOS clock; without the bits for legacy devices and the 8042.
    const BOOT_ARCH: u16 = 1 << 2 | 1 << 3 | 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(layout::LOCAL_APIC));
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

/// The AML that lists devices.
struct Dsdt(Sdt);

impl Aml for Dsdt {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0.as_slice());
    }
}

fn dsdt(devices: &[&str]) -> Dsdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    let mut code = Vec::new();
    let (sleep_type, zero) = (layout::SLEEP_TYPE_S5, 0u8);
    Name::new("_S5_".into(), &Package::new(vec![&sleep_type, &zero])).to_aml_bytes(&mut code);
    let mut body = Vec::new();
    serial().to_aml_bytes(&mut body);
    for (index, id) in devices.iter().enumerate() {
        virtio_mmio(index, id, &mut body);
    }
    code.extend(Scope::raw("\\_SB_".into(), body));
    dsdt.append_slice(&code);
    Dsdt(dsdt)
}

/// An interrupt that is edge-triggered, active high and not shared.
fn interrupt(irq: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, irq)
}

/// COM1. Without it a kernel of a hardware-reduced machine gives the port no interrupt.
fn serial() -> impl Aml {
    struct Serial;
    impl Aml for Serial {
        fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
            let ports = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8);
            let line = interrupt(layout::SERIAL_IRQ);
            Device::new(
                "COM1".into(),
                vec![
                    &Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                    &Name::new("_UID".into(), &0u8),
                    &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &line])),
                ],
            )
            .to_aml_bytes(sink);
        }
    }
    Serial
}

fn virtio_mmio(index: usize, id: &str, sink: &mut dyn AmlSink) {
    let window = Memory32Fixed::new(true, layout::mmio_window(index) as u32, layout::MMIO_STRIDE as u32);
    let line = interrupt(layout::irq(index));
    let (unique, coherent) = (index as u8, 1u8);
    Device::new(
        Path::new(&format!("V{index:03}")),
        vec![
            &Name::new("_HID".into(), &id.to_owned()),
            &Name::new("_UID".into(), &unique),
            &Name::new("_CCA".into(), &coherent),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&window, &line])),
        ],
    )
    .to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Tables by signature, checked for their sums.
    fn parse(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let at = |address: u64| (address - layout::ACPI) as usize;
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!(sum(&bytes[..36]), 0);
        let xsdt = at(u64::from_le_bytes(bytes[24..32].try_into().unwrap()));
        let length = |start: usize| u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
        let table = |start: usize| bytes[start..start + length(start) as usize].to_vec();
        let mut tables = vec![table(xsdt)];
        for entry in table(xsdt)[36..].chunks(8) {
            tables.push(table(at(u64::from_le_bytes(entry.try_into().unwrap()))));
        }
        let dsdt = u64::from_le_bytes(tables[1][140..148].try_into().unwrap());
        tables.push(table(at(dsdt)));
        tables.into_iter().map(|t| (String::from_utf8(t[..4].to_vec()).unwrap(), t)).collect()
    }

    #[test]
    fn tables_are_found_and_their_sums_are_right() {
        let mut ids = [VIRTIO_MMIO; layout::MAX_DEVICES];
        ids[3] = "HUSK0001";
        let bytes = tables(4, &ids);
        assert!(bytes.len() < (layout::HIMEM - layout::ACPI) as usize);
        let tables = parse(&bytes);
        let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["XSDT", "FACP", "APIC", "DSDT"]);
        assert!(tables.iter().all(|(_, table)| sum(table) == 0));
        let dsdt = &tables[3].1;
        let with = |id: &str| dsdt.windows(id.len()).filter(|window| *window == id.as_bytes()).count();
        assert_eq!((with(VIRTIO_MMIO), with("HUSK0001")), (layout::MAX_DEVICES - 1, 1));
    }
}
