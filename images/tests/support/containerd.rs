//! A containerd that unpacks images.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::run;

const START_LIMIT: Duration = Duration::from_secs(60);
/// It copies each layer's parent: with overlayfs containerd fails at hard links to files of lower layers.
const SNAPSHOTTER: &str = "native";

/// A daemon with all of its files in one directory; it ends with this value.
pub struct Containerd {
    child: Child,
    socket: PathBuf,
    root: PathBuf,
}

impl Containerd {
    /// Starts it with its files in `dir`, which is made.
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        let (socket, root) = (dir.join("socket"), dir.join("root"));
        let mut command = Command::new("containerd");
        command.args(["--config", "/dev/null", "--log-level", "fatal", "--address"]).arg(&socket);
        command.arg("--root").arg(&root).arg("--state").arg(dir.join("state"));
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("containerd: {e}; tests/deps/install installs it"));
        let containerd = Self { child, socket, root };
        let begun = Instant::now();
        while !containerd.ctr().arg("version").output().is_ok_and(|output| output.status.success()) {
            assert!(begun.elapsed() < START_LIMIT, "containerd does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&self.socket);
        ctr
    }

    /// Unpacks the only image of the OCI layout in `layout`; answers its root.
    pub fn unpack(&self, layout: &Path) -> PathBuf {
        let archive = layout.with_extension("tar");
        run(Command::new("tar").arg("--create").arg("--file").arg(&archive).arg("-C").arg(layout).arg("."));
        let import = ["images", "import", "--snapshotter", SNAPSHOTTER, "--base-name", "example.org/image"];
        run(self.ctr().args(import).arg(&archive));
        // A directory for each layer with all below it, in the order in which they were made.
        let snapshots = self.root.join(format!("io.containerd.snapshotter.v1.{SNAPSHOTTER}/snapshots"));
        let numbers = std::fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().file_name());
        let last = numbers.filter_map(|name| name.to_str()?.parse::<u32>().ok()).max();
        snapshots.join(last.expect("a snapshot").to_string())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
