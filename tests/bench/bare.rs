//! Bare VMs of the guest's kernel with an init that does nothing: the floor of a pod's start.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use husk_tests::bench_init::UP;
use husk_tests::{Bed, Qemu, Vmm, microvm};

/// Memory of the bare VMs, MiB: that of a pod that asks for none.
const MEMORY: u32 = 256;

/// How long a bare VM may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The parts of a bare VM.
#[derive(Debug)]
pub struct Bare {
    kernel: PathBuf,
    initramfs: PathBuf,
    vmm: PathBuf,
    dir: PathBuf,
}

impl Bare {
    /// Makes the initramfs.
    pub fn prepare(bed: &Bed) -> Bare {
        let dir = bed.scratch("b");
        let initramfs = dir.join("bare.cpio");
        bed.paths.pack_init("husk-bench-init", &initramfs);
        Bare { kernel: bed.paths.kernel(), initramfs, vmm: bed.paths.program("husk-vmm"), dir }
    }

    /// Milliseconds from the start of QEMU to the init's line on the serial console.
    pub fn qemu(&self) -> f64 {
        let begun = Instant::now();
        let mut qemu = Qemu::start(
            microvm(true, MEMORY)
                .args(["-serial", "stdio"])
                .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"])
                .arg("-kernel")
                .arg(&self.kernel)
                .arg("-initrd")
                .arg(&self.initramfs)
                .stdout(Stdio::piped()),
        );
        let mut seen = String::new();
        for line in BufReader::new(qemu.0.stdout.take().expect("its output is piped")).lines() {
            let line = line.expect("read QEMU's serial console");
            if line.contains(UP) {
                return begun.elapsed().as_secs_f64() * 1000.0;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("QEMU's bare VM did not come up:\n{seen}")
    }

    /// The same with husk's own VMM, to the line in its console's log.
    pub fn vmm(&self) -> f64 {
        let begun = Instant::now();
        let config = Vmm::config(&self.dir, MEMORY, &self.kernel, &self.initramfs);
        let vmm = Vmm::start(&self.vmm, config);
        while !vmm.console().contains(UP) {
            assert!(begun.elapsed() < LIMIT, "husk-vmm's bare VM did not come up");
            std::thread::sleep(Duration::from_micros(500));
        }
        begun.elapsed().as_secs_f64() * 1000.0
    }
}
