//! The guest's virtio-blk devices, found by their serials, and the pod's scratch disk.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_proto::LATE_SLOT_ID;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use tokio::time::{Instant, sleep};

use crate::error::{Context, Error, Result};
use crate::ids;
use crate::late;
use crate::paths;
use crate::sys;

/// How long the kernel may take to see a medium that the VMM has just put into a device, or to let go of one.
const PATIENCE: Duration = Duration::from_secs(5);

const DEVICES: &str = "/sys/block";

/// A block device of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, such as `vda`.
    name: String,
}

impl Disk {
    /// Finds the device with a serial, among those that the kernel has found by itself and those that are left to us.
    pub fn find(serial: &str) -> Result<Self> {
        ids::check_serial(serial)?;
        loop {
            match Self::find_in(Path::new(DEVICES), serial) {
                Err(Error::NotFound(_)) if late::bind_next(LATE_SLOT_ID)? => {}
                found => return found,
            }
        }
    }

    fn find_in(devices: &Path, serial: &str) -> Result<Self> {
        let entries = fs::read_dir(devices).context(|| format!("listing {}", devices.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("listing {}", devices.display()))?;
            // Devices of other kinds have no such file.
            let Ok(text) = fs::read_to_string(entry.path().join("serial")) else { continue };
            if text.trim_end_matches(['\n', '\0']) == serial {
                return Ok(Self { name: entry.file_name().to_string_lossy().into_owned() });
            }
        }
        Err(Error::NotFound(format!("no block device of the guest has the serial {serial:?}")))
    }

    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What sysfs knows of it.
    pub fn directory(&self) -> PathBuf {
        Path::new(DEVICES).join(&self.name)
    }

    /// Its device node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Bytes; 0 without a medium.
    fn size(&self) -> Result<u64> {
        let path = self.directory().join("size");
        let text = fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().parse::<u64>().unwrap_or(0).saturating_mul(512))
    }

    /// Waits until the device has a medium of `bytes` bytes.
    pub async fn arrived(&self, bytes: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let size = self.size()?;
            if size == bytes {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let node = self.node();
                return Err(Error::State(format!(
                    "{} has {size} bytes, the disk image {bytes}: it has not been attached",
                    node.display()
                )));
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Mounts the file system on the device, waiting for its medium: the kernel hears of one a little later
    /// than the VMM's control interface, and until then the device may show the one before.
    pub async fn mount(&self, on: &Path, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
        fs::create_dir_all(on).context(|| format!("making {}", on.display()))?;
        let node = self.node();
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let size = self.size()?;
            let failure = match size {
                0 => io::Error::other("the device has no medium"),
                _ => match mount(Some(&node), on, Some(kind), flags, Some(data)) {
                    Ok(()) => return Ok(()),
                    Err(
                        errno @ (Errno::EINVAL | Errno::EIO | Errno::ENXIO | Errno::EUCLEAN | Errno::EBUSY),
                    ) => errno.into(),
                    Err(errno) => return Err(errno).context(|| mounting(kind, &node)),
                },
            };
            if begun.elapsed() > PATIENCE {
                return Err(failure).context(|| format!("{} ({size} bytes)", mounting(kind, &node)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Waits until the kernel has let go of the device: a file system that is still held somewhere would be
    /// seen again in place of the device's next medium.
    pub async fn released(&self) -> Result<()> {
        self.alone().await.map(drop)
    }

    /// As [`Self::released`], and what was written to the device itself is on the host's side then.
    pub async fn written(&self) -> Result<()> {
        let file = self.alone().await?;
        // A medium that takes no writes, or has failed, must not keep a container from its end.
        if let Err(e) = nix::unistd::fsync(&file) {
            tracing::warn!("writing what is left to {}: {e}", self.node().display());
        }
        // What is cached must not be seen in place of the next medium's, even if the node is open elsewhere.
        sys::forget_cached(file.as_fd())
            .context(|| format!("forgetting what is cached of {}", self.node().display()))
    }

    async fn alone(&self) -> Result<OwnedFd> {
        let node = self.node();
        let begun = Instant::now();
        loop {
            match nix::fcntl::open(&node, OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_CLOEXEC, Mode::empty()) {
                Err(Errno::EBUSY) if begun.elapsed() < PATIENCE => sleep(Duration::from_millis(2)).await,
                result => return result.context(|| format!("waiting for {} to be free", node.display())),
            }
        }
    }
}

fn mounting(kind: &str, node: &Path) -> String {
    format!("mounting {kind} from {}", node.display())
}

/// Mounts the pod's scratch space once: the disk of that serial, or a tmpfs for an empty one.
pub async fn mount_scratch(serial: &str) -> Result<()> {
    let scratch = Path::new(paths::SCRATCH);
    let trash = scratch.join(crate::trash::DIRECTORY);
    // Made in the scratch space itself: a sign that it is mounted.
    if trash.is_dir() {
        return Ok(());
    }
    if serial.is_empty() {
        mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::MS_NOATIME, Some("mode=0700"))
            .context(|| "mounting the scratch tmpfs")?;
    } else {
        // What is deleted shall not take up the host's disk.
        Disk::find(serial)?.mount(scratch, "ext4", MsFlags::MS_NOATIME, "discard").await?;
    }
    fs::create_dir_all(&trash).context(|| format!("making {}", trash.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_their_serial() {
        let sys = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", Some("husk-0")), ("vdb", Some("husk-1\n")), ("loop0", None)] {
            fs::create_dir(sys.path().join(name)).unwrap();
            if let Some(serial) = serial {
                fs::write(sys.path().join(name).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(Disk::find_in(sys.path(), "husk-1").unwrap(), Disk { name: "vdb".into() });
        assert!(matches!(Disk::find_in(sys.path(), "husk-2"), Err(Error::NotFound(_))));
        assert!(matches!(Disk::find("../x"), Err(Error::Invalid(_))));
    }
}
