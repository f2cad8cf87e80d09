//! Debian's docker-registry on a loopback port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{run, step};

/// Who a guarded registry serves.
pub const REGISTRY_USER: &str = "ada";
/// That user's secret.
pub const REGISTRY_PASSWORD: &str = "correct horse";
/// bcrypt of it.
const PASSWORD_HASH: &str = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    storage: PathBuf,
    options: RegistryOptions,
}

/// What a registry asks of its clients.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Only [`REGISTRY_USER`] with [`REGISTRY_PASSWORD`] is served.
    pub guarded: bool,
    /// It speaks TLS, as that certificate with that key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// With TLS: only clients with a certificate from that authority are served.
    pub client_ca: Option<PathBuf>,
}

impl Registry {
    /// Starts one that keeps its content below `dir` and serves everyone.
    pub fn start(dir: &Path) -> Registry {
        Registry::with(dir, RegistryOptions::default())
    }

    /// Starts one that keeps its content below `dir`.
    pub fn with(dir: &Path, options: RegistryOptions) -> Registry {
        let storage = dir.join("registry");
        let config = dir.join("registry.yml");
        let port = free_port();
        let mut text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp:\n  addr: '127.0.0.1:{port}'\n",
            storage.display()
        );
        if let Some((certificate, key)) = &options.tls {
            let (certificate, key) = (certificate.display(), key.display());
            text += &format!("  tls:\n    certificate: '{certificate}'\n    key: '{key}'\n");
            if let Some(ca) = &options.client_ca {
                text += &format!("    clientcas: ['{}']\n", ca.display());
            }
        }
        if options.guarded {
            let users = dir.join("users");
            fs::write(&users, format!("{REGISTRY_USER}:{PASSWORD_HASH}\n"))
                .expect("write the registry's users");
            text += &format!("auth: {{htpasswd: {{realm: husk, path: '{}'}}}}\n", users.display());
        }
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
        let mut registry = Registry { child, port, storage, options };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = registry.child.try_wait().expect("wait for docker-registry");
            let log = fs::read_to_string(dir.join("registry.log")).unwrap_or_default();
            assert!(ended.is_none(), "docker-registry ended: {log}");
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "docker-registry does not listen on port {port}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }

    /// Host and port, as in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.host())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Copies what an OCI layout calls `tag`, with all its platforms, to `name` ("repository:tag"). It must not
    /// want a client's certificate.
    pub fn push(&self, layout: &Path, tag: &str, name: &str) {
        step(format!("push {name} to the registry"));
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--insecure-policy", "--all", "--preserve-digests"]);
        skopeo.arg("--dest-tls-verify=false");
        if self.options.guarded {
            skopeo.arg(format!("--dest-creds={REGISTRY_USER}:{REGISTRY_PASSWORD}"));
        }
        skopeo.arg(format!("oci:{}:{tag}", layout.display()));
        run(skopeo.arg(format!("docker://{}/{name}", self.host())));
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
