//! The interrupt controllers outside the vCPUs.

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::SnapshotError;

/// Both PICs and the I/O APIC.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IrqChips([kvm_irqchip; 3]);

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl IrqChips {
    /// Reads them.
    ///
    /// # Errors
    /// [`SnapshotError::Kvm`]
    pub fn save(vm: &VmFd) -> Result<Self, SnapshotError> {
        let mut chips = CHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).map_err(SnapshotError::kvm("reading an interrupt controller"))?;
        }
        Ok(Self(chips))
    }

    /// Sets them.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn restore(&self, vm: &VmFd) -> Result<(), SnapshotError> {
        if self.0.iter().map(|chip| chip.chip_id).ne(CHIPS) {
            return Err(SnapshotError::Foreign("its interrupt controllers are others".to_owned()));
        }
        for chip in &self.0 {
            vm.set_irqchip(chip).map_err(SnapshotError::kvm("setting an interrupt controller"))?;
        }
        Ok(())
    }
}
