//! First state of the vCPUs' registers: 64-bit mode with the first GiB mapped one to one.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use crate::layout;

/// An entry of a GDT: flags (access byte and the upper flag nibble), base 0, limit 4 GiB.
const fn gdt_entry(flags: u16) -> u64 {
    let limit: u64 = 0xf_ffff;
    let flags = flags as u64;
    (limit & 0xffff) | (limit & 0xf_0000) << 32 | flags << 40
}

/// Null, 64-bit code, data, 64-bit TSS; the selectors `__BOOT_CS` and `__BOOT_DS` (0x10 and 0x18) are the
/// boot protocol's.
const GDT: [u64; 5] = [0, 0, gdt_entry(0xa09b), gdt_entry(0xc093), gdt_entry(0x808b)];
const CODE: u16 = 2;
const DATA: u16 = 3;
const TASK: u16 = 4;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Writes GDT, IDT and page tables to guest memory.
///
/// # Errors
/// [`BootError::Write`].
pub fn write_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let put = |what, address: u64, value: u64| {
        memory.write_obj(value, GuestAddress(address)).map_err(BootError::write(what, address))
    };
    for (index, entry) in GDT.iter().enumerate() {
        put("the GDT", layout::GDT + index as u64 * 8, *entry)?;
    }
    put("the IDT", layout::IDT + 8, 0)?;
    let (pdpt, directory) = (layout::PML4 + 0x1000, layout::PML4 + 0x2000);
    put("page tables", layout::PML4, pdpt | PRESENT_WRITABLE)?;
    put("page tables", pdpt, directory | PRESENT_WRITABLE)?;
    for index in 0..512 {
        put("page tables", directory + index * 8, index << 21 | PRESENT_WRITABLE | LARGE)?;
    }
    Ok(())
}

fn segment(index: u16) -> kvm_segment {
    let entry = GDT[index as usize];
    let bit = |shift: u32| (entry >> shift & 1) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: (entry >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: (entry >> 45 & 3) as u8,
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        unusable: 0,
        padding: 0,
    }
}

fn long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (GDT.len() * 8 - 1) as u16;
    sregs.idt.base = layout::IDT + 8;
    sregs.idt.limit = 7;
    let data = segment(DATA);
    sregs.cs = segment(CODE);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(TASK);
    sregs.tr.limit = 0xffff;
    sregs.cr3 = layout::PML4;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
    sregs
}

/// Readies the vCPU that boots; the others wait for it in KVM's local APICs.
///
/// # Errors
/// What KVM says.
pub fn set_boot_state(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_sregs(&long_mode(vcpu.get_sregs()?))?;
    vcpu.set_regs(&kvm_regs {
        rflags: 2,
        rip: entry.0,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rsi: layout::ZERO_PAGE,
        ..Default::default()
    })
}

/// Floating point, model-specific registers and local interrupts of every vCPU.
///
/// # Errors
/// What KVM says.
pub fn set_common_state(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() })?;

    const IA32_MISC_ENABLE: u32 = 0x1a0;
    const MISC_FAST_STRING: u64 = 1;
    const MTRR_DEF_TYPE: u32 = 0x2ff;
    const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;
    let entries = [
        kvm_msr_entry { index: IA32_MISC_ENABLE, data: MISC_FAST_STRING, ..Default::default() },
        kvm_msr_entry { index: MTRR_DEF_TYPE, data: MTRR_ENABLE_WRITE_BACK, ..Default::default() },
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::EINVAL))?;
    // KVM stops at the first register it does not know: fewer written than given.
    if vcpu.set_msrs(&msrs)? != entries.len() {
        return Err(kvm_ioctls::Error::new(libc::ENOTSUP));
    }

    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const MODE_EXT_INT: u32 = 7 << 8;
    const MODE_NMI: u32 = 4 << 8;
    let mut lapic = vcpu.get_lapic()?;
    for (register, mode) in [(LVT_LINT0, MODE_EXT_INT), (LVT_LINT1, MODE_NMI)] {
        let bytes = &mut lapic.regs[register..register + 4];
        let old = u32::from_le_bytes([bytes[0] as u8, bytes[1] as u8, bytes[2] as u8, bytes[3] as u8]);
        for (byte, new) in bytes.iter_mut().zip(((old & !(7 << 8)) | mode).to_le_bytes()) {
            *byte = new as _;
        }
    }
    vcpu.set_lapic(&lapic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_segment_is_64_bit() {
        let code = segment(CODE);
        assert_eq!((code.selector, code.l, code.db, code.s, code.present), (0x10, 1, 0, 1, 1));
        assert_eq!(code.type_, 0xb);
        let data = segment(DATA);
        assert_eq!((data.selector, data.l, data.db, data.type_), (0x18, 0, 1, 3));
    }

    #[test]
    fn the_first_gib_is_mapped_one_to_one() {
        let memory = GuestMemoryMmap::from_ranges(&crate::memory::ranges(32 << 20)).unwrap();
        write_tables(&memory).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(read(layout::PML4) & !0xfff, layout::PML4 + 0x1000);
        assert_eq!(read(layout::PML4 + 0x2000 + 511 * 8), 511 << 21 | 0x83);
    }
}
