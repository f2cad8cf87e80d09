//! Which pods' VMs can be clones of the same template, and until when.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::VmDefaults;
use crate::error::{Error, Result};

/// Pods with different trust settings never have a page in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trust {
    /// The RuntimeClass handler.
    pub handler: String,
    /// The Kubernetes namespace, where only its pods may share.
    pub namespace: Option<String>,
}

/// What of a VM its guest has seen when it booted, and whom it may serve. Pods of one class differ in what can change
/// while a VM runs: vCPUs and memory within these bounds, addresses and MTU of interfaces, media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whom it may serve.
    pub trust: Trust,
    /// The most vCPUs.
    pub max_vcpus: u8,
    /// Memory that it boots with, MiB.
    pub boot_mib: u32,
    /// The most memory that can be plugged, MiB.
    pub hotplug_mib: u32,
    /// Number of block slots.
    pub block_slots: u8,
    /// Number of interfaces.
    pub nets: usize,
    /// Pairs of queues of each.
    pub net_queues: u8,
}

impl Class {
    /// The name of its directory.
    pub fn name(&self) -> String {
        let Self { trust: Trust { handler, namespace }, max_vcpus, boot_mib, hotplug_mib, .. } = self;
        let Self { block_slots, nets, net_queues, .. } = self;
        // Nothing that a pod names can be made another's, or lead out of the directory.
        let trust = match namespace {
            None => format!("h{handler}"),
            Some(namespace) => format!("n{}:{handler}{namespace}", handler.len()),
        };
        let trust = &hex(Sha256::digest(trust))[..16];
        format!(
            "{boot_mib}+{hotplug_mib}MiB-{max_vcpus}cpus-{block_slots}slots-{nets}x{net_queues}nets-{trust}"
        )
    }
}

/// What templates are made by and of: their directory's name. A file that is replaced or written is another one; its
/// content need not be read to see that.
///
/// # Errors
/// [`Error::Io`] when one of the files is not there.
pub fn build(defaults: &VmDefaults) -> Result<String> {
    let mut sum = Sha256::new();
    sum.update(env!("CARGO_PKG_VERSION"));
    // Another kernel of the host has another KVM.
    sum.update(rustix::system::uname().release().to_bytes());
    // It may know of its CPUs what it did not know when it was started with another command line.
    sum.update([husk_vmm::host_cpus::returns_are_safe().into()]);
    for (_, path) in defaults.files() {
        sum.update(identity(path).map_err(|e| Error::io("look at", path, e))?);
    }
    Ok(hex(sum.finalize())[..16].to_owned())
}

fn identity(path: &Path) -> std::io::Result<String> {
    let file = std::fs::metadata(path)?;
    Ok(format!(
        "\0{}:{}:{}:{}.{}:{}.{}",
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec()
    ))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> Class {
        Class {
            trust: Trust { handler: "husk".into(), namespace: None },
            max_vcpus: 4,
            boot_mib: 256,
            hotplug_mib: 1024,
            block_slots: 12,
            nets: 1,
            net_queues: 1,
        }
    }

    fn trusting(handler: &str, namespace: Option<&str>) -> Class {
        let trust = Trust { handler: handler.into(), namespace: namespace.map(str::to_owned) };
        Class { trust, ..class() }
    }

    #[test]
    fn what_differs_has_another_name() {
        let names: std::collections::HashSet<String> = [
            class(),
            trusting("husk-secure", None),
            trusting("../x", None),
            trusting("husk", Some("")),
            trusting("husk", Some("a")),
            trusting("huska", Some("")),
            Class { max_vcpus: 5, ..class() },
            Class { boot_mib: 128, ..class() },
            Class { hotplug_mib: 128, ..class() },
            Class { block_slots: 2, ..class() },
            Class { nets: 0, ..class() },
            Class { net_queues: 2, ..class() },
        ]
        .iter()
        .map(Class::name)
        .collect();
        assert_eq!(names.len(), 12);
        assert!(names.iter().all(|name| !name.contains(['/', '\0'])));
    }

    #[test]
    fn a_file_that_changes_makes_another_build() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["vmm", "kernel", "initramfs"] {
            std::fs::write(path(name), name).unwrap();
        }
        let defaults = VmDefaults {
            vmm: path("vmm"),
            kernel: path("kernel"),
            initramfs: path("initramfs"),
            ..Default::default()
        };
        let first = build(&defaults).unwrap();
        assert_eq!(build(&defaults).unwrap(), first);
        std::fs::write(path("new"), "kernel").unwrap();
        std::fs::rename(path("new"), path("kernel")).unwrap();
        let second = build(&defaults).unwrap();
        assert_ne!(second, first);
        std::fs::write(path("initramfs"), "other").unwrap();
        assert_ne!(build(&defaults).unwrap(), second);
        std::fs::remove_file(path("vmm")).unwrap();
        assert!(build(&defaults).unwrap_err().to_string().contains("vmm"));
    }
}
