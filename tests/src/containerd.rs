//! A containerd of the benchmarks' own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Client, Cni};

const START_LIMIT: Duration = Duration::from_secs(60);

/// What its CRI needs.
#[derive(Clone, Copy, Debug)]
pub struct Cri<'a> {
    /// The pods' network.
    pub cni: &'a Cni,
    /// The URL that stands for the registries below.
    pub mirror: &'a str,
    /// The image of pods' own containers.
    pub sandbox_image: &'a str,
}

impl Cri<'_> {
    /// The registries whose images the mirror has.
    const MIRRORED: [&'static str; 2] = ["docker.io", "registry.k8s.io"];

    fn config(&self) -> String {
        const PLUGIN: &str = "plugins.\"io.containerd.grpc.v1.cri\"";
        let mut text = format!(
            // Its tests' host does not let it protect itself either.
            "[{PLUGIN}]\nsandbox_image = {:?}\nrestrict_oom_score_adj = true\n\
             [{PLUGIN}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n",
            self.sandbox_image, self.cni.conf_dir,
        );
        for host in Cri::MIRRORED {
            text += &format!("[{PLUGIN}.registry.mirrors.{host:?}]\nendpoint = [{:?}]\n", self.mirror);
        }
        text
    }
}

/// A running daemon; it ends with this value.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    socket: PathBuf,
}

impl Containerd {
    /// Starts one that has nothing outside of `dir`, and no CRI unless it is given.
    ///
    /// # Errors
    /// What went wrong, with its own last words.
    pub fn start(dir: &Path, cri: Option<Cri<'_>>) -> Result<Containerd, String> {
        let (config, socket, log) = (dir.join("config.toml"), dir.join("socket"), dir.join("log"));
        let cri = match cri {
            Some(cri) => cri.config(),
            // It wants a network.
            None => String::new(),
        };
        let without =
            if cri.is_empty() { "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n" } else { "" };
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{without}\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n[debug]\nlevel = \"error\"\n{cri}",
            dir.join("root"),
            dir.join("state"),
            dir.join("ttrpc"),
        );
        let started = fs::write(&config, text).and_then(|()| File::create(&log)).and_then(|log| {
            let mut command = Command::new("containerd");
            command
                .arg("--config")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        });
        let child = started.map_err(|e| format!("cannot start containerd: {e}"))?;
        let mut containerd = Containerd { child, socket };
        let begun = Instant::now();
        while !containerd.answers() {
            let ended = containerd.child.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || begun.elapsed() > START_LIMIT {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!(
                    "containerd does not come up: {}",
                    said.lines().last().unwrap_or_default()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(containerd)
    }

    fn answers(&self) -> bool {
        let mut version = self.ctr();
        version.arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    }

    /// Its command line client.
    pub fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&self.socket);
        ctr
    }

    /// The CRI's client.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
