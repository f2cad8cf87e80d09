//! A whole node for tests: registry, network, daemon.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use husk_proto::cri;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use tempfile::TempDir;

use crate::{Client, Cni, Containerd, Cri, Crictl, Daemon, Leftovers, Paths, Pod, Registry, step, wait_for};

/// The images that are pushed, as tests/images/build names them.
const IMAGES: [&str; 9] =
    ["busybox", "nginx", "layers", "volume", "user", "arm", "corrupt", "missing", "mislabelled"];

/// The image of containerd's own containers in pods, as tests/images/conformance names it.
const PAUSE: &str = "pause:3.9";

/// The node. All of it ends with this value.
#[derive(Debug)]
pub struct Bed {
    /// What is under test.
    pub paths: Paths,
    /// The registry behind docker.io.
    pub registry: Registry,
    /// The pods' network.
    pub cni: Cni,
    /// The daemon.
    pub daemon: Daemon,
    /// Its client.
    pub client: Client,
    leftovers: Leftovers,
    dir: TempDir,
}

/// A directory for a daemon's files, with the shortest of names: its sockets below it must fit in 107 bytes (unix(7)).
pub fn short_dir() -> TempDir {
    tempfile::Builder::new().prefix("h").rand_bytes(5).tempdir_in("/tmp").expect("make a directory")
}

impl Bed {
    /// Starts a node with some of the images in its registry, busybox pulled; `None`: all of them.
    ///
    /// # Panics
    /// Outside a test bed, or when something of it does not come up.
    pub async fn start(images: Option<&[&str]>) -> Bed {
        assert!(
            std::env::var_os("HUSK_TESTBED").is_some(),
            "this makes VMs, links and firewall rules, so it runs in a test bed only: tests/testbed/run COMMAND"
        );
        let paths = Paths::find();
        let dir = short_dir();
        step(format!("a node in {}", dir.path().display()));
        let registry = Registry::start(dir.path());
        for name in images.unwrap_or(&IMAGES) {
            registry.push(&paths.images(), name, &format!("husk/{name}:latest"));
        }
        let cni = Cni::create(&dir.path().join("cni"));
        let daemon = Daemon::prepare(dir.path(), &paths, &cni, &registry.url());
        let leftovers = Leftovers::note(dir.path(), &daemon, &cni);
        let client = daemon.client();
        let bed = Bed { paths, registry, cni, daemon, client, leftovers, dir };
        step("start husk serve");
        bed.daemon.start().await;
        bed.client.pull(crate::BUSYBOX).await.expect("PullImage of busybox");
        bed
    }

    /// crictl, bound to this node's daemon.
    pub fn crictl(&self) -> Crictl {
        Crictl::find(&self.paths, &self.daemon)
    }

    /// A directory of this node for a test's files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(crate::unique(name));
        fs::create_dir_all(&path).expect("make a directory");
        path
    }

    /// Gives a pod's configuration a log directory of its own.
    pub fn with_logs(&self, mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        config.log_directory = self.dir.path().join("logs").join(name).display().to_string();
        config
    }

    /// Runs a pod with logs.
    pub async fn pod(&self, config: cri::PodSandboxConfig) -> Pod {
        Pod::run(&self.client, self.with_logs(config)).await
    }

    /// A containerd beside the daemon, with its CRI on the same network and the same registry, and busybox pulled.
    pub async fn containerd(&self) -> Containerd {
        step("start containerd");
        self.registry.push(&self.paths.conformance_images(), PAUSE, PAUSE);
        let cri = Cri {
            cni: &self.cni,
            mirror: &self.registry.url(),
            sandbox_image: &format!("registry.k8s.io/{PAUSE}"),
        };
        let containerd = Containerd::start(&self.scratch("c"), Some(cri)).expect("start containerd");
        let client = containerd.client();
        wait_for("containerd's CRI", Duration::from_secs(60), || {
            let mut runtime = client.runtime();
            async move { runtime.version(cri::VersionRequest::default()).await.ok() }
        })
        .await;
        client.pull(crate::BUSYBOX).await.expect("PullImage of busybox");
        containerd
    }

    /// Removes every pod.
    pub async fn clear(&self) {
        for pod in self.client.pods(cri::PodSandboxFilter::default()).await {
            let mut runtime = self.client.runtime();
            let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            runtime.stop_pod_sandbox(stop).await.expect("StopPodSandbox");
            let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id };
            runtime.remove_pod_sandbox(remove).await.expect("RemovePodSandbox");
        }
    }

    /// Checks that, with no pod left, nothing of any pod is.
    pub fn check_clean(&self) -> Result<(), String> {
        self.leftovers.check(&[self.daemon.pid(), self.registry.pid()])
    }
}

impl Drop for Bed {
    /// VMs outlive their daemon by design. Where the bed is no throw-away host, they must not outlive it.
    fn drop(&mut self) {
        self.daemon.kill();
        for (pid, _) in self.leftovers.processes(&[self.registry.pid()]) {
            let _ = kill(ProcessId::from_raw(pid as i32), Signal::SIGKILL);
        }
        for mount in self.leftovers.mounts() {
            let _ = Command::new("umount").args(["--lazy", &mount]).status();
        }
        let _ = Command::new("ip").args(["link", "del", crate::BRIDGE]).stderr(Stdio::null()).status();
    }
}
