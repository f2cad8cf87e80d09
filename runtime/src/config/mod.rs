//! The daemon's configuration: `/etc/husk/config.toml`, every key with a default.

mod observe;
mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cgroup::CgroupPath;
use crate::error::{Error, Result};
pub use observe::{MetricsConfig, TracingConfig};
pub use vm::{TemplateScope, VmDefaults};

/// The RuntimeClass handler of pods that name none.
pub const HANDLER: &str = "husk";

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
    /// The same for pods of a RuntimeClass, by its handler; a key that is not there is as in `vm`.
    pub handlers: BTreeMap<String, VmDefaults>,
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
    /// Figures for Prometheus.
    pub metrics: MetricsConfig,
    /// Traces for OpenTelemetry.
    pub tracing: TracingConfig,
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

/// CNI.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Where network configurations are; the first by name is used.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one call of a plugin may take, seconds; it is killed then.
    pub timeout_secs: u64,
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
            handlers: BTreeMap::new(),
            network: NetworkConfig::default(),
            registry: RegistryConfig::default(),
            volumes: VolumeConfig::default(),
            streaming: StreamingConfig::default(),
            cgroup: CgroupConfig::default(),
            metrics: MetricsConfig::default(),
            tracing: TracingConfig::default(),
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
            timeout_secs: 60,
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
        let config = Config::parse(&text)
            .map_err(|e| Error::Invalid(format!("configuration {}: {e}", path.display())))?;
        config.validate()?;
        Ok(config)
    }

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        // What is wrong is told with its line only where the text itself is read.
        let config: Config = toml::from_str(text)?;
        if config.handlers.is_empty() {
            return Ok(config);
        }
        let mut table: toml::Table = toml::from_str(text)?;
        let vm = table.get("vm").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let handlers = table.get_mut("handlers").and_then(toml::Value::as_table_mut);
        for keys in handlers.into_iter().flat_map(|handlers| handlers.iter_mut()) {
            let own = keys.1.as_table().cloned().unwrap_or_default();
            *keys.1 = vm.clone().into_iter().chain(own).collect::<toml::Table>().into();
        }
        table.try_into()
    }

    /// Where each pod has a directory, by its id.
    pub fn pods_dir(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// Where a pod's sockets, configuration and console are.
    pub fn pod_dir(&self, id: &str) -> PathBuf {
        self.pods_dir().join(id)
    }

    /// What the VMs of a RuntimeClass handler are like. Pods that name none have [`HANDLER`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is another runtime's, with those that are known.
    pub fn handler(&self, name: &str) -> Result<&VmDefaults> {
        let known = if name.is_empty() { HANDLER } else { name };
        self.handlers.get(known).or((known == HANDLER).then_some(&self.vm)).ok_or_else(|| {
            let names: Vec<&str> = self.handler_names().collect();
            Error::Invalid(format!("runtime handler {name:?} is not known; use one of {names:?}, or none"))
        })
    }

    /// What the VMs of a pod that is there already are like: its handler may have been taken out of the configuration
    /// meanwhile.
    pub fn handler_of_pod(&self, name: &str) -> &VmDefaults {
        self.handler(name).unwrap_or(&self.vm)
    }

    /// The handlers that pods can name.
    pub fn handler_names(&self) -> impl Iterator<Item = &str> {
        let others = self.handlers.keys().map(String::as_str).filter(|name| *name != HANDLER);
        std::iter::once(HANDLER).chain(others)
    }

    /// What VMs are like: that of pods that name no handler, and that of each handler.
    pub fn vms(&self) -> impl Iterator<Item = &VmDefaults> {
        self.handler_names().filter_map(|name| self.handler(name).ok())
    }

    /// Switches templates on or off for all handlers.
    pub fn set_templates(&mut self, on: bool) {
        self.vm.templates = on;
        self.handlers.values_mut().for_each(|vm| vm.templates = on);
    }

    /// Checks what the types cannot say.
    fn validate(&self) -> Result<()> {
        self.vm.validate("vm")?;
        for (name, vm) in &self.handlers {
            let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
            if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
                return Err(Error::Invalid(format!(
                    "handlers.{name:?}: use a RuntimeClass's handler, at most 63 of a to z, 0 to 9 and \"-\""
                )));
            }
            vm.validate(&format!("handlers.{name}"))?;
            if vm.uid_range != self.vm.uid_range {
                return Err(Error::Invalid(format!(
                    "handlers.{name}.uid_range: all monitors share one range; set vm.uid_range"
                )));
            }
        }
        if self.streaming.idle_timeout_secs == 0 {
            let text =
                "streaming.idle_timeout_secs = 0: every connection would be ended at once; use 1 or more";
            return Err(Error::Invalid(text.into()));
        }
        if self.network.timeout_secs == 0 {
            let text = "network.timeout_secs = 0: every plugin would be killed at once; use 1 or more";
            return Err(Error::Invalid(text.into()));
        }
        CgroupPath::of_pod("", &self.cgroup.parent, "")
            .map_err(|e| Error::Invalid(format!("cgroup.parent: {e}")))?;
        self.tracing.validate()?;
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
        assert!(parse("[vm]\nmax_templates = 0").unwrap_err().to_string().contains("vm.max_templates"));
        assert!(parse("[vm]\nvcpus = 0").unwrap_err().to_string().contains("vm.vcpus"));
        for range in ["[0, 9]", "[9, 8]", "[9, 9]", "[1, 4294967295]"] {
            let error = parse(&format!("[vm]\nuid_range = {range}")).unwrap_err().to_string();
            assert!(error.contains("vm.uid_range") && error.contains(range), "{error}");
        }
        assert!(parse("[cgroup]\ndriver = 'runc'").unwrap_err().to_string().contains("runc"));
        assert!(parse("[cgroup]\nparent = '/a/../b'").unwrap_err().to_string().contains("cgroup.parent"));
        let never = parse("[network]\ntimeout_secs = 0").unwrap_err().to_string();
        assert!(never.contains("network.timeout_secs"), "{never}");
        let half = parse("[streaming]\ntls_key = '/x'").unwrap_err().to_string();
        assert!(half.contains("streaming.tls_certificate"), "{half}");
    }

    #[test]
    fn a_named_file_must_exist() {
        assert!(Config::load(Some(Path::new("/nonexistent/husk.toml"))).is_err());
    }

    #[test]
    fn a_handler_is_as_the_others_but_for_its_own_keys() {
        let config = parse(
            "[vm]\nvcpus = 2\nmemory_mib = 512\n[handlers.husk-private]\ntemplates = false\nmemory_mib = 128\n\
             [handlers.other]\n",
        )
        .unwrap();
        let private = config.handler("husk-private").unwrap();
        assert_eq!((private.vcpus, private.memory_mib, private.templates), (2, 128, false));
        for name in ["other", "", HANDLER] {
            assert_eq!(config.handler(name).unwrap(), &config.vm);
        }
        let error = config.handler("runc").unwrap_err().to_string();
        assert!(error.contains("runc") && error.contains("husk-private"), "{error}");
        assert_eq!(config.handler_of_pod("runc"), &config.vm);
        assert_eq!(config.handler_names().collect::<Vec<_>>(), [HANDLER, "husk-private", "other"]);
        // Pods that name none have the same as those that name the first.
        let own = parse("[handlers.husk]\nvcpus = 3").unwrap();
        assert_eq!(own.handler("").unwrap().vcpus, 3);
        assert_eq!((own.vm.vcpus, own.vms().count()), (1, 1));
    }

    #[test]
    fn bad_handlers_are_named() {
        for (text, named) in [
            ("[handlers.a]\nvcpus = 99", "handlers.a.vcpus = 99"),
            ("[handlers.a]\nvcpsu = 1", "vcpsu"),
            ("[handlers.a]\nuid_range = [5, 9]", "handlers.a.uid_range"),
            ("[handlers.A_b]", "A_b"),
            ("[handlers]\na = 3", "a = 3"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
