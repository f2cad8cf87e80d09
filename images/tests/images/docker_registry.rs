//! Debian's `docker-registry` on a loopback port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use husk_images::Credentials;

use crate::support::run;

const USER: &str = "ada";
const PASSWORD: &str = "correct horse";
/// bcrypt of [`PASSWORD`].
const PASSWORD_HASH: &str = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";

/// A running registry; it ends with this value.
pub struct DockerRegistry {
    child: Child,
    port: u16,
    storage: PathBuf,
    guarded: bool,
}

impl DockerRegistry {
    /// One that keeps its content below `dir` and serves everyone.
    pub fn start(dir: &Path) -> Self {
        Self::serve(dir, "")
    }

    /// One that wants [`DockerRegistry::credentials`].
    pub fn guarded(dir: &Path) -> Self {
        let users = dir.join("users");
        fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        Self::serve(dir, &format!("auth: {{htpasswd: {{realm: husk, path: '{}'}}}}\n", users.display()))
    }

    fn serve(dir: &Path, auth: &str) -> Self {
        let (storage, config) = (dir.join("registry"), dir.join("registry.yml"));
        // Between this and the registry's own bind another process may take the port: then it ends and says so.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let log = dir.join("registry.log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("tests/deps/install installs docker-registry");
        let mut registry = Self { child, port, storage, guarded: !auth.is_empty() };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = registry.child.try_wait().unwrap();
            assert!(ended.is_none(), "docker-registry: {}", fs::read_to_string(&log).unwrap());
            assert!(begun.elapsed() < Duration::from_secs(20), "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Host and port, as in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What a guarded one wants.
    pub fn credentials() -> Credentials {
        Credentials { username: USER.into(), password: PASSWORD.into() }
    }

    /// Copies what the layout calls `tag`, with all its platforms, to `name` ("repository:tag").
    pub fn push(&self, layout: &Path, tag: &str, name: &str) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--insecure-policy", "--all", "--dest-tls-verify=false"]);
        skopeo.args(["--preserve-digests"]);
        if self.guarded {
            skopeo.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        skopeo.arg(format!("oci:{}:{tag}", layout.display()));
        run(skopeo.arg(format!("docker://{}/{name}", self.host())));
    }

    /// The file in which it keeps a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.storage.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
