//! A containerd that unpacks images.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::run;

const IMAGE: &str = "example.org/image";
const START_LIMIT: Duration = Duration::from_secs(60);

/// How containerd keeps what it unpacks.
#[derive(Clone, Copy)]
pub enum Snapshotter {
    /// containerd's default. Its unpacking fails at hard links to files of lower layers, as it unpacks each layer
    /// in a directory of its own.
    Overlayfs,
    /// Each layer begins as a copy of its parent's directory. What is copied loses directories' times and all hard
    /// links but those of regular files; a directory keeps the attributes of lower layers.
    Native,
}

impl Snapshotter {
    fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }
}

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

    /// Unpacks the only image of the OCI layout in `layout`, by copies; answers its root.
    pub fn unpack(&self, layout: &Path) -> PathBuf {
        self.import(layout, Snapshotter::Native);
        // A directory for each layer with all below it, in the order in which they were made.
        let snapshots = self.root.join("io.containerd.snapshotter.v1.native/snapshots");
        let numbers = std::fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().file_name());
        let last = numbers.filter_map(|name| name.to_str()?.parse::<u32>().ok()).max();
        snapshots.join(last.expect("a snapshot").to_string())
    }

    /// Unpacks the only image of the OCI layout in `layout`, which is `tag`, for overlayfs, and mounts it read-only at
    /// `root`.
    pub fn mount(&self, layout: &Path, tag: &str, root: &Path) {
        self.import(layout, Snapshotter::Overlayfs);
        run(self.ctr().args(["images", "mount"]).arg(format!("{IMAGE}:{tag}")).arg(root));
    }

    /// Undoes [`Self::mount`].
    pub fn unmount(&self, root: &Path) {
        // Its snapshot goes only if the snapshotter is named, and would else stand for the next image's.
        let unmount = ["images", "unmount", "--rm", "--snapshotter", Snapshotter::Overlayfs.name()];
        run(self.ctr().args(unmount).arg(root));
    }

    fn import(&self, layout: &Path, snapshotter: Snapshotter) {
        let archive = layout.with_extension("tar");
        run(Command::new("tar").arg("--create").arg("--file").arg(&archive).arg("-C").arg(layout).arg("."));
        let import = ["images", "import", "--snapshotter", snapshotter.name(), "--base-name", IMAGE];
        run(self.ctr().args(import).arg(&archive));
        std::fs::remove_file(archive).unwrap();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
