//! The daemon's configuration: `/etc/husk/config.toml`, every key with a default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cgroup::CgroupPath;
use crate::error::{Error, Result};

/// Where the configuration is looked for when no flag names it; it may be absent.
pub const DEFAULT_PATH: &str = "/etc/husk/config.toml";

/// All that an operator can set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Unix socket of the CRI endpoint.
    pub socket: PathBuf,
    /// State that survives a reboot: images, scratch disks, the store.
    pub root: PathBuf,
    /// State that does not: sockets, network namespaces, consoles.
    pub run: PathBuf,
    /// The guest and its monitor.
    pub vm: VmDefaults,
    /// CNI.
    pub network: NetworkConfig,
    /// Registries.
    pub registry: RegistryConfig,
    /// Volumes.
    pub volumes: VolumeConfig,
    /// Exec, attach and port-forward.
    pub streaming: StreamingConfig,
    /// The pods' cgroups on the host.
    pub cgroup: CgroupConfig,
}

/// The pods' cgroups on the host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupConfig {
    /// What kubelet is told to use for its own cgroups, the pods' parents.
    pub driver: CgroupDriver,
    /// Parent for pods that name none; empty: those have no cgroup of their own.
    pub parent: String,
}

/// How kubelet makes the pods' parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// By itself.
    Cgroupfs,
    /// As slices of systemd's.
    Systemd,
}

/// Volumes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeConfig {
    /// The `virtiofsd` program, 1.7 or later.
    pub virtiofsd: PathBuf,
}

/// The guest and its monitor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmDefaults {
    /// The `husk-vmm` program. Default: beside `husk` itself.
    pub vmm: PathBuf,
    /// Uncompressed guest kernel.
    pub kernel: PathBuf,
    /// Initramfs with the agent.
    pub initramfs: PathBuf,
    /// vCPUs of a pod that asks for none.
    pub vcpus: u8,
    /// The most vCPUs that a pod may come to have while it runs, unless it starts with more; 0: as many as the host
    /// has, at most 8. Each costs its guest some memory, whether it is used or not.
    pub max_vcpus: u8,
    /// Memory of a pod that asks for none, MiB.
    pub memory_mib: u32,
    /// The most memory that a pod may come to have while it runs, unless it starts with more, MiB; 0: as much as the
    /// host has. It costs nothing until it is used.
    pub max_memory_mib: u32,
    /// Added to the memory that a pod asks for, MiB: what the guest's kernel and agent need.
    pub memory_overhead_mib: u32,
    /// Block slots: distinct images and block devices that a pod can use at once, plus one for its scratch disk.
    pub block_slots: u8,
    /// Size limit of a pod's scratch disk, MiB; it is sparse.
    pub scratch_mib: u64,
    /// The most that a pod may ask for instead, MiB; less than `scratch_mib` is as much as that.
    pub scratch_max_mib: u64,
    /// How long a guest may take from start to a listening agent, seconds.
    pub boot_timeout_secs: u64,
    /// Bytes of a guest's console that are kept.
    pub console_limit: u64,
    /// First and last of the users, and groups of the same numbers, that are husk's alone: the monitor of each pod
    /// becomes one of them.
    pub uid_range: [u32; 2],
    /// Whether pods' VMs are clones of templates: guests that have booted and were saved. The first pod of a kind boots,
    /// and a template is made after it.
    pub templates: bool,
}

/// CNI.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Where network configurations are; the first by name is used.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in order.
    pub bin_dirs: Vec<PathBuf>,
}

/// Registries.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// The `husk-convert` program. Default: beside `husk` itself.
    pub converter: PathBuf,
    /// Registry host to the URLs that are tried before it, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Directories of containerd-style `HOST/hosts.toml` files.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's `config.json` with credentials for pulls that bring none. Every pod of the node can use images that
    /// they open.
    pub docker_config: Option<PathBuf>,
    /// Images that kubelet and `husk gc` leave alone: references, or beginnings of them followed by "*".
    pub pinned: Vec<String>,
}

/// Exec, attach and port-forward.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamingConfig {
    /// Address and port of the HTTP server; port 0: any free one.
    pub address: String,
    /// Certificate with its chain, PEM; with `tls_key`, URLs are https.
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's key, PEM.
    pub tls_key: Option<PathBuf>,
    /// A connection over which nothing has been sent for so long is ended, seconds; kubelet's own default.
    pub idle_timeout_secs: u64,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        StreamingConfig {
            address: "127.0.0.1:0".into(),
            tls_certificate: None,
            tls_key: None,
            idle_timeout_secs: 4 * 60 * 60,
        }
    }
}

impl Default for CgroupConfig {
    fn default() -> Self {
        CgroupConfig { driver: CgroupDriver::Cgroupfs, parent: "/husk".into() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socket: "/run/husk/husk.sock".into(),
            root: "/var/lib/husk".into(),
            run: "/run/husk".into(),
            vm: VmDefaults::default(),
            network: NetworkConfig::default(),
            registry: RegistryConfig::default(),
            volumes: VolumeConfig::default(),
            streaming: StreamingConfig::default(),
            cgroup: CgroupConfig::default(),
        }
    }
}

impl Default for VmDefaults {
    fn default() -> Self {
        VmDefaults {
            vmm: beside_self("husk-vmm"),
            kernel: asset("vmlinux"),
            initramfs: asset("initramfs.cpio"),
            vcpus: 1,
            max_vcpus: 0,
            memory_mib: 256,
            max_memory_mib: 0,
            memory_overhead_mib: 64,
            block_slots: 12,
            scratch_mib: 10 << 10,
            scratch_max_mib: 0,
            boot_timeout_secs: 60,
            console_limit: 1 << 20,
            // Above all that systemd, useradd and kubelet give to users, services, containers and user namespaces.
            uid_range: [1_879_048_192, 1_879_113_727],
            templates: false,
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            converter: beside_self("husk-convert"),
            mirrors: BTreeMap::new(),
            hosts_dirs: vec!["/etc/husk/certs.d".into(), "/etc/containerd/certs.d".into()],
            docker_config: None,
            pinned: Vec::new(),
        }
    }
}

impl Default for VolumeConfig {
    fn default() -> Self {
        VolumeConfig { virtiofsd: "/usr/libexec/virtiofsd".into() }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        }
    }
}

impl Config {
    /// Reads `path`; without one, [`DEFAULT_PATH`] if it is there, else the defaults.
    pub fn load(path: Option<&Path>) -> Result<Config> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return Ok(Config::default()),
            Err(e) => return Err(Error::io("read the configuration", path, e)),
        };
        let config: Config = toml::from_str(&text)
            .map_err(|e| Error::Invalid(format!("configuration {}: {e}", path.display())))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot say.
    fn validate(&self) -> Result<()> {
        if !(2..=14).contains(&self.vm.block_slots) {
            return Err(Error::Invalid(format!("vm.block_slots = {}: use 2 to 14", self.vm.block_slots)));
        }
        if !(1..=32).contains(&self.vm.vcpus) {
            return Err(Error::Invalid(format!("vm.vcpus = {}: use 1 to 32", self.vm.vcpus)));
        }
        if self.vm.max_vcpus > 32 {
            return Err(Error::Invalid(format!(
                "vm.max_vcpus = {}: use 1 to 32, or 0 for the host's",
                self.vm.max_vcpus
            )));
        }
        if self.vm.memory_mib < 64 {
            return Err(Error::Invalid(format!("vm.memory_mib = {}: use 64 or more", self.vm.memory_mib)));
        }
        if self.streaming.idle_timeout_secs == 0 {
            let text =
                "streaming.idle_timeout_secs = 0: every connection would be ended at once; use 1 or more";
            return Err(Error::Invalid(text.into()));
        }
        let [first, last] = self.vm.uid_range;
        if first == 0 || first > last || last == u32::MAX {
            return Err(Error::Invalid(format!(
                "vm.uid_range = [{first}, {last}]: use two numbers of users from 1 to 4294967294, the lower one first"
            )));
        }
        CgroupPath::of_pod("", &self.cgroup.parent, "")
            .map_err(|e| Error::Invalid(format!("cgroup.parent: {e}")))?;
        if self.streaming.tls_certificate.is_some() != self.streaming.tls_key.is_some() {
            let text = "streaming.tls_certificate and streaming.tls_key: set both, or neither";
            return Err(Error::Invalid(text.into()));
        }
        Ok(())
    }
}

fn beside_self(name: &str) -> PathBuf {
    std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name))).unwrap_or_else(|| name.into())
}

fn asset(name: &str) -> PathBuf {
    Path::new("/usr/lib/husk").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn every_key_has_a_default() {
        let config = parse("").unwrap();
        assert_eq!(config.socket, Path::new("/run/husk/husk.sock"));
        assert_eq!(config.vm.block_slots, 12);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        assert!(parse("sokcet = '/x'").unwrap_err().to_string().contains("sokcet"));
        assert!(parse("[vm]\nblock_slots = 99").unwrap_err().to_string().contains("99"));
        assert!(parse("[vm]\nmax_vcpus = 33").unwrap_err().to_string().contains("vm.max_vcpus"));
        assert!(parse("[vm]\nvcpus = 0").unwrap_err().to_string().contains("vm.vcpus"));
        for range in ["[0, 9]", "[9, 8]", "[1, 4294967295]"] {
            let error = parse(&format!("[vm]\nuid_range = {range}")).unwrap_err().to_string();
            assert!(error.contains("vm.uid_range") && error.contains(range), "{error}");
        }
        assert!(parse("[cgroup]\ndriver = 'runc'").unwrap_err().to_string().contains("runc"));
        assert!(parse("[cgroup]\nparent = '/a/../b'").unwrap_err().to_string().contains("cgroup.parent"));
        let half = parse("[streaming]\ntls_key = '/x'").unwrap_err().to_string();
        assert!(half.contains("streaming.tls_certificate"), "{half}");
    }

    #[test]
    fn a_named_file_must_exist() {
        assert!(Config::load(Some(Path::new("/nonexistent/husk.toml"))).is_err());
    }
}
