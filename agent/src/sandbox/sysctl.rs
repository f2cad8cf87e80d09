//! Kernel parameters of the pod.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// The longest value, in bytes.
const MAX_VALUE: usize = 4096;

/// What Kubernetes calls namespaced parameters: they concern the pod's own network and IPC. The others would
/// reach the agent itself (`kernel.core_pattern` names a program that the kernel runs).
const ALLOWED: [&str; 6] =
    ["net/", "kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/", "kernel/domainname"];

/// What containers are used to on a node: any port and ICMP echo without a capability.
pub const DEFAULTS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// The file below `/proc/sys` of a parameter such as `net.ipv4.ip_forward`; names with slashes keep their
/// dots (`net/ipv4/conf/eth0.1/forwarding`), as sysctl(8) has it.
pub fn path(name: &str) -> Result<PathBuf> {
    let invalid = |why: &str| Err(Error::Invalid(format!("sysctl {name:?} {why}")));
    if name.len() > 256 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-/".contains(&b)) {
        return invalid("must be at most 256 characters of [A-Za-z0-9_./-]");
    }
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return invalid("has an empty or relative part");
    }
    if !ALLOWED.iter().any(|prefix| relative.starts_with(prefix)) {
        return invalid(
            "is not one that belongs to a pod: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*",
        );
    }
    Ok(Path::new("/proc/sys").join(relative))
}

/// Checks the value and sets the parameter.
pub fn set(name: &str, value: &str) -> Result<()> {
    let path = path(name)?;
    if value.len() > MAX_VALUE || value.contains(['\0', '\n']) {
        return Err(Error::Invalid(format!("sysctl {name}: the value is not one short line")));
    }
    std::fs::write(&path, value).context(|| format!("setting sysctl {name} to {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(path("kernel.shm_rmid_forced").unwrap(), Path::new("/proc/sys/kernel/shm_rmid_forced"));
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
    }

    #[test]
    fn escapes_and_foreign_parameters_are_refused() {
        for name in [
            "",
            "net",
            "net..x",
            "net.",
            "net/../kernel/core_pattern",
            "/net/x",
            "kernel.core_pattern",
            "kernel.modprobe",
            "vm.overcommit_memory",
            "net.ipv4.x\n",
            "net.ipv4 x",
        ] {
            assert!(matches!(path(name), Err(Error::Invalid(_))), "{name:?}");
        }
        assert!(set("net.ipv4.ip_forward", "1\n2").is_err());
    }
}
