//! Puts a node together from a configuration.

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::network::{NetworkConfig, PodNetwork};
use crate::node::Node;
use crate::store::Store;
use crate::vm::ScratchTemplate;

/// Opens everything and takes in hand what an earlier process left.
pub async fn open(config: Config, network: bool) -> Result<Arc<Node>> {
    for dir in [&config.root, &config.run, &config.root.join("scratch"), &config.run.join("pods")] {
        make_private(dir)?;
    }
    let programs = [("VMM", &config.vm.vmm), ("converter", &config.registry.converter)];
    for (what, path) in
        programs.into_iter().chain([("guest kernel", &config.vm.kernel), ("initramfs", &config.vm.initramfs)])
    {
        if !path.is_file() {
            return Err(Error::Unavailable(format!(
                "the {what} {} is not there; `husk check` says how to get it",
                path.display()
            )));
        }
    }
    let store = Store::open(&config.root.join("husk.redb"))?;
    let registry = husk_images::RegistryConfig {
        mirrors: config.registry.mirrors.clone(),
        worker: config.registry.converter.clone(),
        ..Default::default()
    };
    let images = husk_images::ImageStore::open(&config.root.join("images"), registry)?;
    let scratch = ScratchTemplate::prepare(&config.root, config.vm.scratch_mib)?;
    let network = network.then(|| self::network(&config));
    let node = Node::new(config, store, images, network, scratch);
    node.recover().await?;
    Ok(node)
}

/// The node's pod network.
pub fn network(config: &Config) -> PodNetwork {
    PodNetwork::new(NetworkConfig {
        conf_dir: config.network.conf_dir.clone(),
        bin_dirs: config.network.bin_dirs.clone(),
        cache_dir: config.root.join("cni"),
        netns_dir: config.run.join("netns"),
    })
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))
}
