//! A containerd of the benchmark's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::process;
use crate::tools::succeed;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running daemon; it ends with this value.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    socket: PathBuf,
}

impl Containerd {
    /// Starts one that has nothing outside of `dir`.
    pub fn start(dir: &Path) -> Result<Containerd, String> {
        let (config, socket, log) = (dir.join("config.toml"), dir.join("socket"), dir.join("log"));
        // Without the CRI's plugin: it wants a network, and pulls by the same code as ctr.
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n[debug]\nlevel = \"error\"\n",
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
        while succeed(containerd.ctr().arg("version")).is_err() {
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

    /// Its command line client.
    pub fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&self.socket);
        ctr
    }

    /// CPU seconds that the daemon has used.
    pub fn cpu(&self) -> f64 {
        process(self.child.id())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
