//! `husk check`: is this host fit?

use std::path::Path;
use std::process::ExitCode;

use super::node;
use crate::config::Config;
use crate::host;

/// Prints a line for each thing that is needed; the exit code is 1 when one is not there.
pub fn execute(config: &Config) -> ExitCode {
    let vm = &config.vm;
    let network = node::network(config);
    let checks: [(&str, Result<String, String>); 10] = [
        ("KVM device", host::kvm_device()),
        ("KVM hardware", host::kvm_hardware()),
        ("VMM", host::file(&vm.vmm, "build it: `make build`, or set vm.vmm")),
        (
            "converter",
            host::file(&config.registry.converter, "build it: `make build`, or set registry.converter"),
        ),
        ("guest kernel", host::file(&vm.kernel, "build it: `make kernel`, or set vm.kernel")),
        ("initramfs", host::file(&vm.initramfs, "build it: `make kernel`, or set vm.initramfs")),
        ("tun device", host::exists(Path::new("/dev/net/tun"), "modprobe tun")),
        ("mke2fs", host::program("mke2fs", "install e2fsprogs")),
        ("virtiofsd", host::file(&config.volumes.virtiofsd, "install virtiofsd, or set volumes.virtiofsd")),
        ("CNI", network.status().map(|()| "ready".into()).map_err(|e| e.to_string())),
    ];
    let mut fit = true;
    for (name, outcome) in checks {
        match outcome {
            Ok(fact) => println!("ok    {name:<13} {fact}"),
            Err(problem) => {
                fit = false;
                println!("FAIL  {name:<13} {problem}");
            }
        }
    }
    if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
