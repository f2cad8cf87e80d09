//! A CNI network of the tests' own, of Debian's plugins.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::script;

/// The network's bridge; it stays after the last pod, as the plugin leaves it.
pub const BRIDGE: &str = "husk0-test";

/// The pods' addresses.
pub const SUBNET: &str = "10.88.0.0/16";

/// Directories with one network's configuration.
#[derive(Clone, Debug)]
pub struct Cni {
    /// Where configurations are; the first by name is used.
    pub conf_dir: PathBuf,
    /// Plugins of the tests, looked for after Debian's.
    pub bin_dir: PathBuf,
    /// Where host-local keeps its allocations.
    pub ipam_dir: PathBuf,
}

impl Cni {
    /// Writes the configuration below `dir`.
    pub fn create(dir: &Path) -> Cni {
        let cni = Cni { conf_dir: dir.join("net.d"), bin_dir: dir.join("bin"), ipam_dir: dir.join("ipam") };
        for dir in [&cni.conf_dir, &cni.bin_dir, &cni.ipam_dir] {
            fs::create_dir_all(dir).expect("make the CNI directories");
        }
        cni.configure(
            "50-test",
            &[cni.bridge(), json!({"type": "portmap", "capabilities": {"portMappings": true}})],
        );
        cni
    }

    /// The bridge plugin's part of a configuration.
    pub fn bridge(&self) -> serde_json::Value {
        json!({
            "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": self.ipam_dir,
                "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        })
    }

    /// Writes a configuration list; answers its path.
    pub fn configure(&self, name: &str, plugins: &[serde_json::Value]) -> PathBuf {
        let path = self.conf_dir.join(format!("{name}.conflist"));
        let list = json!({"cniVersion": "1.0.0", "name": "husk-test", "plugins": plugins});
        // Through another name, which is not read: the daemon may look at any time.
        let half = self.conf_dir.join(format!("{name}.new"));
        fs::write(&half, list.to_string())
            .and_then(|()| fs::rename(&half, &path))
            .expect("write the configuration");
        path
    }

    /// Writes a plugin: a shell script.
    pub fn plugin(&self, name: &str, script: &str) {
        script::install(&self.bin_dir.join(name), script);
    }

    /// Addresses that host-local says are in use.
    pub fn allocated(&self) -> Vec<String> {
        let network = self.ipam_dir.join("husk-test");
        let names = fs::read_dir(network).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}
