//! Debian's docker-registry on a loopback port, with the test images in it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{run, step};

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    storage: PathBuf,
}

impl Registry {
    /// Starts one that keeps its content below `dir`.
    pub fn start(dir: &Path) -> Registry {
        let storage = dir.join("registry");
        let config = dir.join("registry.yml");
        let port = free_port();
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            storage.display()
        );
        fs::write(&config, text).expect("write the registry's configuration");
        let log = File::create(dir.join("registry.log")).expect("create the registry's log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            // It would take /var/lib/docker-registry's credentials and tracing from the environment.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start docker-registry; tests/deps/install installs it");
        let mut registry = Registry { child, port, storage };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = registry.child.try_wait().expect("wait for docker-registry");
            assert!(ended.is_none(), "docker-registry ended: see {}/registry.log", dir.display());
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "docker-registry does not listen on port {port}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Copies the image `name` of an OCI layout, with all its platforms, to `husk/<name>:latest`.
    pub fn push(&self, layout: &Path, name: &str) {
        step(format!("push {name} to the registry"));
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--all", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:{name}", layout.display()))
            .arg(format!("docker://127.0.0.1:{}/husk/{name}:latest", self.port)));
    }

    /// The digests of an image's layers, in order, as the layout says. The image has one platform.
    pub fn layers(layout: &Path, name: &str) -> Vec<String> {
        let read = |path: PathBuf| -> serde_json::Value {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            serde_json::from_str(&text).expect("JSON")
        };
        let index = read(layout.join("index.json"));
        let named =
            |entry: &&serde_json::Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
        let entry = index["manifests"].as_array().into_iter().flatten().find(named);
        let digest = entry.and_then(|entry| entry["digest"].as_str()).expect("the layout has the image");
        let manifest = read(layout.join("blobs").join(digest.replace(':', "/")));
        let layers = manifest["layers"].as_array().expect("the manifest has layers");
        layers.iter().filter_map(|layer| layer["digest"].as_str().map(str::to_owned)).collect()
    }

    /// The file in which the registry keeps a blob ("sha256:...").
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        self.storage.join(path)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port on which nobody listens now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
    listener.local_addr().expect("the address of a bound socket").port()
}
