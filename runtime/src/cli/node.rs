//! Puts a node together from a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use husk_images::{ImageError, ImageStore};

use crate::cgroup::Cgroups;
use crate::config::{Config, VmDefaults};
use crate::error::{Error, Result};
use crate::network::{NetworkConfig, PodNetwork};
use crate::node::Node;
use crate::store::Store;
use crate::vm::ScratchTemplate;

/// Opens everything and takes in hand what an earlier process left.
pub async fn open(config: Config, network: bool) -> Result<Arc<Node>> {
    for dir in [&config.root, &config.run, &config.root.join("scratch"), &config.pods_dir()] {
        make_private(dir)?;
    }
    let converter = ("converter", config.registry.converter.as_path());
    for (what, path) in config.vms().flat_map(VmDefaults::files).chain([converter]) {
        if !path.is_file() {
            return Err(Error::Unavailable(format!(
                "the {what} {} is not there; `husk check` says how to get it",
                path.display()
            )));
        }
    }
    let store = Store::open(&config.root.join("husk.redb"))?;
    let images = images(&config)?;
    let scratch = ScratchTemplate::prepare(&config.root, config.vm.scratch_mib)?;
    let cgroups = Cgroups::of_host();
    if let Err(problem) = cgroups.describe() {
        tracing::warn!("{problem}");
    }
    let network = network.then(|| self::network(&config));
    let node = Node::new(config, store, images, network, scratch, cgroups);
    node.recover().await?;
    Ok(node)
}

/// The node's images.
pub fn images(config: &Config) -> Result<ImageStore, ImageError> {
    let registry = husk_images::RegistryConfig {
        mirrors: config.registry.mirrors.clone(),
        hosts_dirs: config.registry.hosts_dirs.clone(),
        docker_config: config.registry.docker_config.clone(),
        pinned: config.registry.pinned.clone(),
        worker: config.registry.converter.clone(),
        worker_cgroups: worker_cgroups(config),
        ..Default::default()
    };
    ImageStore::open(&config.root.join("images"), registry)
}

/// Without one, workers are in the cgroup of who starts them.
fn worker_cgroups(config: &Config) -> Vec<PathBuf> {
    Cgroups::of_host().of_converters(&config.cgroup.parent).unwrap_or_else(|e| {
        tracing::warn!("{e}");
        Vec::new()
    })
}

/// Where `husk run` has its images and records.
pub fn standalone_root(config: &Config) -> PathBuf {
    config.root.join("standalone")
}

/// Lets a command use the credentials that its user has given docker, unless the configuration names others.
pub fn use_own_credentials(config: &mut Config) {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    if config.registry.docker_config.is_none() {
        config.registry.docker_config = dir.map(|dir| dir.join("config.json"));
    }
}

/// The node's pod network.
pub fn network(config: &Config) -> PodNetwork {
    PodNetwork::new(NetworkConfig {
        conf_dir: config.network.conf_dir.clone(),
        bin_dirs: config.network.bin_dirs.clone(),
        cache_dir: config.root.join("cni"),
        netns_dir: config.run.join("netns"),
        timeout: Duration::from_secs(config.network.timeout_secs),
    })
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))
}
