//! Direct boot of an uncompressed x86-64 Linux kernel (Documentation/arch/x86/boot.rst, "64-bit boot
//! protocol"): the kernel, its initramfs, command line and `boot_params` are put into guest memory.

pub mod cpuid;
pub mod registers;
mod returns;

use std::fs::File;
use std::path::{Path, PathBuf};

use linux_loader::configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{Cmdline, KernelLoader, elf::Elf, load_cmdline};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::config::VmConfig;
use crate::layout;

/// Given to every kernel. `quiet` and the log level, which the agent raises, keep the slow serial port out of the boot:
/// where there is no PCI the kernel calls that fatal, at length. `panic=-1` and ACPI's reset register turn a panic into
/// an end of the VM at once; KVM's clock makes a TSC watchdog and the timer check of real hardware pointless; there is
/// no keyboard controller worth probing, nor anything on a PCI bus.
///
/// A kernel that boots on one CPU would take the lock prefixes out of some thousand instructions, one by one, and put
/// them in again when the VM gets another CPU. That is much of a boot, and of a resize.
///
/// Memory that is plugged is the kernel's to use as it likes, but so that it can go again: most of it is for what can
/// be moved away, as far as the kernel's own needs allow.
pub const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=a tsc=reliable no_timer_check \
     noreplace-smp pci=off i8042.noaux i8042.nomux i8042.dumbkbd loop.max_loop=0 random.trust_cpu=on memory_hotplug.online_policy=auto-movable";

/// Why a VM cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("reading the {what} {path}: {source}", path = path.display())]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no ELF kernel, or memory is too small for it.
    #[error(
        "loading the kernel {path}: {source}; it must be an uncompressed x86-64 vmlinux that fits the \
         guest's memory",
        path = path.display()
    )]
    Kernel {
        /// Its path.
        path: PathBuf,
        /// What the loader said.
        source: linux_loader::loader::Error,
    },
    /// No room between the kernel and the end of low memory.
    #[error("an initramfs of {bytes} bytes does not fit into {available} bytes above the kernel")]
    InitramfsTooLarge {
        /// Its size.
        bytes: u64,
        /// What is left.
        available: u64,
    },
    /// Too long, or with bytes that are not ASCII.
    #[error("the kernel command line is refused: {0}; at most {max} bytes of ASCII", max = layout::CMDLINE_MAX - 1)]
    Cmdline(String),
    /// Writing boot structures failed: memory is smaller than the least a VM has.
    #[error("writing {what} to guest memory at {address:#x} failed: {why}")]
    Write {
        /// Which structure.
        what: &'static str,
        /// Where to.
        address: u64,
        /// What the memory said.
        why: String,
    },
}

impl BootError {
    /// For `map_err` of a write to guest memory.
    pub fn write<E: std::fmt::Display>(what: &'static str, address: u64) -> impl FnOnce(E) -> Self {
        move |why| Self::Write { what, address, why: why.to_string() }
    }
}

/// A file that is put into memory, open.
pub struct Image {
    what: &'static str,
    path: PathBuf,
    file: File,
}

impl Image {
    /// Opens it; `what` is "kernel" or "initramfs".
    ///
    /// # Errors
    /// [`BootError::Read`].
    pub fn open(what: &'static str, path: &Path) -> Result<Self, BootError> {
        let path = path.to_owned();
        match File::open(&path) {
            Ok(file) => Ok(Self { what, path, file }),
            Err(source) => Err(BootError::Read { what, path, source }),
        }
    }

    fn failed(&self, source: std::io::Error) -> BootError {
        BootError::Read { what: self.what, path: self.path.clone(), source }
    }
}

/// Puts everything into memory; returns where the first vCPU starts.
///
/// # Errors
/// [`BootError`].
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &mut Image,
    initramfs: &mut Image,
    cmdline: &Cmdline,
) -> Result<GuestAddress, BootError> {
    let loaded = Elf::load(memory, None, &mut kernel.file, Some(GuestAddress(layout::HIMEM)))
        .map_err(|source| BootError::Kernel { path: kernel.path.clone(), source })?;
    let (ramdisk, ramdisk_bytes) = load_initramfs(memory, initramfs, loaded.kernel_end)?;

    load_cmdline(memory, GuestAddress(layout::CMDLINE), cmdline)
        .map_err(BootError::write("the command line", layout::CMDLINE))?;
    let params = params(memory, ramdisk, ramdisk_bytes);
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)),
        memory,
    )
    .map_err(BootError::write("boot_params", layout::ZERO_PAGE))?;
    Ok(loaded.kernel_load)
}

/// Gives the kernel that [`load`] put into memory plain returns. False: it keeps its thunks, and the log has the reason.
pub fn make_returns_plain(memory: &GuestMemoryMmap, kernel: &Image) -> bool {
    let why = match returns::make_plain(memory, &kernel.file) {
        Ok(true) => return true,
        Ok(false) => "it has none, or they are not as expected".to_owned(),
        Err(error) => error.to_string(),
    };
    let path = kernel.path.display();
    crate::log::line(format_args!("the kernel {path} looks after its return thunks itself: {why}"));
    false
}

/// Initramfs on top of low memory, out of the way of everything that the kernel puts right behind itself.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    image: &mut Image,
    kernel_end: u64,
) -> Result<(u64, u64), BootError> {
    let bytes = image.file.metadata().map_err(|source| image.failed(source))?.len();
    let low_end = low_memory_end(memory);
    let available = low_end.saturating_sub(kernel_end.next_multiple_of(4096));
    let too_large = BootError::InitramfsTooLarge { bytes, available };
    if bytes > available.saturating_sub(4096) {
        return Err(too_large);
    }
    let address = (low_end - bytes) & !4095;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut image.file, bytes as usize)
        .map_err(|error| image.failed(std::io::Error::other(error)))?;
    Ok((address, bytes))
}

fn low_memory_end(memory: &GuestMemoryMmap) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, |region| region.len())
}

/// The kernel's command line.
///
/// # Errors
/// [`BootError::Cmdline`].
pub fn cmdline(config: &VmConfig) -> Result<Cmdline, BootError> {
    let own = match config.vcpus < config.max_vcpus {
        // The others are brought online when they are needed.
        true => format!("{CMDLINE} maxcpus={}", config.vcpus),
        false => CMDLINE.to_owned(),
    };
    join(&own, &config.cmdline)
}

fn join(own: &str, extra: &str) -> Result<Cmdline, BootError> {
    let refuse = |error: linux_loader::cmdline::Error| BootError::Cmdline(error.to_string());
    if let Some(bad) = extra.trim().bytes().find(|byte| !matches!(byte, b' '..=b'~')) {
        return Err(BootError::Cmdline(format!("it contains the byte {bad:#04x}")));
    }
    let mut cmdline = Cmdline::new(layout::CMDLINE_MAX).map_err(refuse)?;
    cmdline.insert_str(own).map_err(refuse)?;
    if !extra.trim().is_empty() {
        cmdline.insert_str(extra.trim()).map_err(refuse)?;
    }
    Ok(cmdline)
}

/// The "zero page". Values of the header are those of the boot protocol's documentation.
fn params(memory: &GuestMemoryMmap, ramdisk: u64, ramdisk_bytes: u64) -> boot_params {
    const BOOT_FLAG: u16 = 0xaa55;
    const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
    const LOADER_UNDEFINED: u8 = 0xff;
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;

    let mut params = boot_params {
        acpi_rsdp_addr: layout::ACPI,
        hdr: setup_header {
            boot_flag: BOOT_FLAG,
            header: MAGIC,
            type_of_loader: LOADER_UNDEFINED,
            kernel_alignment: 0x0100_0000,
            cmd_line_ptr: layout::CMDLINE as u32,
            cmdline_size: layout::CMDLINE_MAX as u32,
            // Both below 3 GiB.
            ramdisk_image: ramdisk as u32,
            ramdisk_size: ramdisk_bytes as u32,
            ..Default::default()
        },
        ..Default::default()
    };
    let mut map = vec![
        (0, layout::LOW_RAM_END, RAM),
        (layout::ACPI, layout::HIMEM - layout::ACPI, RESERVED),
        (layout::HIMEM, low_memory_end(memory).saturating_sub(layout::HIMEM), RAM),
    ];
    for region in memory.iter().filter(|region| region.start_addr().raw_value() >= layout::HIGH_MEMORY) {
        map.push((region.start_addr().raw_value(), region.len(), RAM));
    }
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: kind };
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn memory(mib: u64) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&crate::memory::ranges(mib << 20)).unwrap()
    }

    fn image(what: &'static str, path: &Path) -> Image {
        Image::open(what, path).unwrap()
    }

    #[test]
    fn the_map_gives_all_memory_but_the_tables() {
        let params = params(&memory(4096), 0, 0);
        let map: Vec<_> = params.e820_table[..params.e820_entries as usize]
            .iter()
            .map(|entry| (entry.addr, entry.size, entry.r#type))
            .collect();
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, 1),
                (0xe_0000, 0x2_0000, 2),
                (0x10_0000, (3 << 30) - 0x10_0000, 1),
                (4 << 30, 1 << 30, 1)
            ]
        );
    }

    #[test]
    fn initramfs_goes_to_the_top_or_is_refused() {
        let memory = memory(32);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let (address, bytes) =
            load_initramfs(&memory, &mut image("initramfs", file.path()), 20 << 20).unwrap();
        assert_eq!((address, bytes), ((32 << 20) - 12288, 10_000));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(address + 9_999)).unwrap(), 7);
        file.as_file().set_len(13 << 20).unwrap();
        let error = load_initramfs(&memory, &mut image("initramfs", file.path()), 20 << 20).unwrap_err();
        assert!(matches!(error, BootError::InitramfsTooLarge { .. }), "{error}");
    }

    #[test]
    fn cmdline_is_bounded() {
        let text = join(CMDLINE, "husk.answer=42").unwrap().as_cstring().unwrap();
        assert!(text.to_str().unwrap().ends_with(" husk.answer=42"));
        assert!(matches!(join(CMDLINE, &"x".repeat(2048)), Err(BootError::Cmdline(_))));
        assert!(matches!(join(CMDLINE, "bad\nworse"), Err(BootError::Cmdline(_))));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"MZ no kernel at all").unwrap();
        let error = load(
            &memory(32),
            &mut image("kernel", file.path()),
            &mut image("initramfs", Path::new("/dev/null")),
            &join(CMDLINE, "").unwrap(),
        )
        .unwrap_err();
        assert!(matches!(error, BootError::Kernel { .. }), "{error}");
    }
}
