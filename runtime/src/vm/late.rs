//! Which devices of a VM the guest binds when it has a use for them, and not at its boot.

use husk_proto::{LATE_FS_ID, LATE_MEMORY_ID, LATE_SLOT_ID};
use husk_vmm::config::{LateDevices, LateSlots};

/// Slots that a template's guest has drivers for, so that its clones need not look for them: the scratch disk's, and those
/// of two images. Each costs a clone some time and memory.
const TEMPLATE_SLOTS: u8 = 3;

/// Of a VM with `slots` block slots: all that a pod's boot can do without, while a template has what most of its clones
/// use.
pub fn devices(template: bool, slots: u8) -> LateDevices {
    let first = if template { TEMPLATE_SLOTS.min(slots) } else { 0 };
    let unless_template = |id: &str| (!template).then(|| id.to_owned());
    LateDevices {
        slots: Some(LateSlots { acpi_id: LATE_SLOT_ID.to_owned(), first }),
        fs: unless_template(LATE_FS_ID),
        memory: unless_template(LATE_MEMORY_ID),
    }
}
