//! VMs that cannot start: the VMM says why.

use std::path::Path;

use husk_vmm::config::VmConfig;

use crate::Test;
use crate::machine;

pub const TESTS: &[Test] =
    &[("what cannot start says why", says_why), ("a VMM in another's PID namespace is refused", not_apart)];

fn says_why() {
    refused("reading the kernel /nowhere/vmlinux", |config, _| config.kernel = "/nowhere/vmlinux".into());
    refused("must be an uncompressed x86-64 vmlinux", |config, _| config.kernel = "/proc/self/exe".into());
    refused("reading the initramfs", |config, _| config.initramfs = "/nowhere/initramfs".into());
    refused("jail.uid and jail.gid", |config, _| config.jail = None);
    refused("memory_mib is 8", |config, _| config.memory_mib = 8);
    refused("does not fit", |config, dir| {
        std::fs::File::create(dir.join("large")).unwrap().set_len(100 << 20).unwrap();
        (config.initramfs, config.memory_mib) = (dir.join("large"), 64);
    });
    refused("vsock.socket", |config, _| config.vsock.socket = "/nowhere/vsock.sock".into());
    refused("control_socket", |config, _| config.control_socket = "/nowhere/control.sock".into());
    refused("console_log", |config, _| config.console_log = "/nowhere/console.log".into());
    refused("vsock.host_fd", |config, _| config.vsock.host_fd = Some(77));
    refused("jail.network_fd", |config, _| config.jail.as_mut().unwrap().network_fd = Some(77));
    refused("nets[].tap_fds", |config, _| {
        let mac = "02:00:00:00:00:01".to_owned();
        config.nets.push(husk_vmm::config::NetConfig { tap_fds: vec![77], queues: 1, mac, mtu: 1500 });
    });
}

/// Whoever starts it must have put it into a PID namespace.
fn not_apart() {
    let dir = tempfile::tempdir().unwrap();
    let status = machine::command(&machine::config(dir.path()), dir.path()).status().unwrap();
    let said = std::fs::read_to_string(dir.path().join("vmm.log")).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("PID namespace") && said.lines().count() == 1, "{said}");
}

fn refused(words: &str, change: impl Fn(&mut VmConfig, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = machine::config(dir.path());
    crate::initramfs::write(&config.initramfs);
    change(&mut config, dir.path());
    let status = machine::start(&config, dir.path()).wait().unwrap();
    let said = std::fs::read_to_string(dir.path().join("vmm.log")).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(words) && said.lines().count() == 1, "{said}");
}
