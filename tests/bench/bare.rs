//! Bare VMs of the guest's kernel with an init that does nothing: the floor of a pod's start.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use husk_tests::{Bed, microvm, run};
use serde_json::json;

/// What the init says, first of all.
const UP: &str = "husk-bench: up";

/// Memory of the bare VMs, MiB: that of a pod that asks for none.
const MEMORY: u32 = 256;

/// The user that the VMM becomes: one of those that husk gives to monitors.
const USER: u32 = 1_879_048_192;

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
        run(Command::new(bed.paths.checkout.join("guest-kernel/initramfs"))
            .arg(bed.paths.program("husk-bench-init"))
            .arg(&initramfs));
        Bare { kernel: bed.paths.kernel(), initramfs, vmm: bed.paths.program("husk-vmm"), dir }
    }

    /// Milliseconds from the start of QEMU to the init's line on the serial console.
    pub fn qemu(&self) -> f64 {
        let begun = Instant::now();
        let mut child = microvm(true, MEMORY)
            .args(["-serial", "stdio"])
            .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start qemu-system-x86_64");
        let mut seen = String::new();
        let mut took = None;
        for line in BufReader::new(child.stdout.take().expect("its output is piped")).lines() {
            let line = line.expect("read QEMU's serial console");
            if line.contains(UP) {
                took = Some(begun.elapsed());
                break;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        child.kill().and_then(|()| child.wait()).expect("end QEMU");
        took.unwrap_or_else(|| panic!("QEMU's bare VM did not come up:\n{seen}")).as_secs_f64() * 1000.0
    }

    /// The same with husk's own VMM, to the line in its console's log.
    pub fn vmm(&self) -> f64 {
        let console = self.dir.join("console");
        let control = self.dir.join("control");
        for file in [&console, &control, &self.dir.join("vsock")] {
            let _ = fs::remove_file(file);
        }
        // As `husk_vmm::config::VmConfig` has it.
        let config = json!({
            "id": "bench", "jail": {"uid": USER, "gid": USER}, "vcpus": 1, "max_vcpus": 1, "memory_mib": MEMORY, "kernel": self.kernel, "initramfs": self.initramfs,
            "console_log": console, "console_log_limit": 1 << 20, "block_slots": 2, "nets": [],
            "vsock": {"cid": 3, "socket": self.dir.join("vsock")}, "control_socket": control,
        });
        let path = self.dir.join("vmm.json");
        fs::write(&path, config.to_string()).expect("write the VMM's configuration");
        let begun = Instant::now();
        let start = || {
            let mut command = Command::new(&self.vmm);
            command.arg("--config").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
        };
        let mut child = husk_jail::namespaces::start_apart(start).expect("start husk-vmm");
        let up = || fs::read(&console).is_ok_and(|text| String::from_utf8_lossy(&text).contains(UP));
        while !up() {
            assert!(begun.elapsed() < LIMIT, "husk-vmm's bare VM did not come up");
            std::thread::sleep(Duration::from_micros(500));
        }
        let took = begun.elapsed();
        let _ = child.kill();
        child.wait().expect("end husk-vmm");
        took.as_secs_f64() * 1000.0
    }
}
