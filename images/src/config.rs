//! What an operator may set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::convert::Limits;
use crate::reference::Reference;

/// Where images come from, and what fetching one may cost.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// For a registry's host as it stands in references ("docker.io", "registry.example:5000"), or "*" for
    /// every other: URLs that are tried in order before the host itself. Only an `http://` URL is spoken to
    /// without TLS. Credentials for the host are never sent to a mirror.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Directories with one for each registry, and in that a `hosts.toml`, as containerd's `certs.d`. The first that
    /// has one counts. The hosts in it are asked after `mirrors`.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's `config.json`, for registries that no credentials are given for.
    pub docker_config: Option<PathBuf>,
    /// Images that are not to be removed to win space: complete references, or beginnings of them followed by "*".
    pub pinned: Vec<String>,
    /// The program `husk-convert`.
    pub worker: PathBuf,
    /// The user and group that it runs as when started by root; nothing else should run as them.
    pub worker_id: u32,
    /// The cgroups that its processes are to be in, one for each hierarchy: their files `cgroup.procs`.
    pub worker_cgroups: Vec<PathBuf>,
    /// Budgets of one conversion.
    pub limits: Limits,
    /// Layers of one image fetched and converted at a time.
    pub parallel_layers: usize,
    /// How often a request is repeated after a failure that may pass.
    pub retries: u32,
    /// How long a registry or the worker may make no progress at all.
    pub stall: Duration,
    /// Bytes a second under which a registry's blob counts as stalled, over that time.
    pub min_rate: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            hosts_dirs: Vec::new(),
            docker_config: None,
            pinned: Vec::new(),
            worker: beside_this_program("husk-convert"),
            worker_id: 64_997,
            worker_cgroups: Vec::new(),
            limits: Limits::default(),
            parallel_layers: 3,
            retries: 4,
            stall: Duration::from_secs(30),
            min_rate: 4 << 10,
        }
    }
}

impl RegistryConfig {
    /// Whether one of `names`, complete references, is pinned.
    pub(crate) fn is_pinned(&self, names: &[String]) -> bool {
        self.pinned.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => names.iter().any(|name| name.starts_with(start)),
            None => Reference::parse(pattern).is_ok_and(|pinned| names.contains(&pinned.to_string())),
        })
    }
}

/// `name` in the directory of the running program, or by itself where that is not known.
fn beside_this_program(name: &str) -> PathBuf {
    let here = std::env::current_exe().ok();
    here.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
}
