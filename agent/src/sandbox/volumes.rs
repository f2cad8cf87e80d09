//! The pod's volumes: one virtio-fs device, mounted when the first container has one.

use std::fs;
use std::path::{Path, PathBuf};

use husk_proto::{LATE_FS_ID, VOLUME_TAG};
use nix::mount::{MsFlags, mount};
use oci_spec::runtime::Spec;

use crate::error::{Context, Error, Result};
use crate::{ids, late, paths};

/// The place of a volume from its name, `CONTAINER/NUMBER`.
pub fn place(name: &str) -> Result<PathBuf> {
    let wrong = || Error::Invalid(format!("volume {name:?} is not CONTAINER/NUMBER"));
    let (container, number) = name.split_once('/').ok_or_else(wrong)?;
    ids::check_id("container", container)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Path::new(paths::VOLUMES).join(container).join(number.to_string()))
}

/// Mounts the device if the container has volumes and nobody had before.
pub fn mount_for(spec: &Spec) -> Result<()> {
    let share = Path::new(paths::VOLUMES);
    let sources = spec.mounts().iter().flatten().filter_map(|mount| mount.source().as_ref());
    let mut volumes = sources.filter(|source| source.starts_with(share)).peekable();
    if volumes.peek().is_none() {
        return Ok(());
    }
    if !share.is_dir() {
        late::bind_all(LATE_FS_ID)?;
        fs::create_dir_all(share).context(|| format!("making {}", share.display()))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if let Err(error) = mount(Some(VOLUME_TAG), share, Some("virtiofs"), flags, None::<&str>) {
            let _ = fs::remove_dir(share);
            return Err(error)
                .context(|| format!("mounting the volumes ({VOLUME_TAG}) on {}", share.display()));
        }
    }
    match volumes.find(|volume| volume.symlink_metadata().is_err()) {
        None => Ok(()),
        Some(absent) => Err(Error::NotFound(format!("the host shares no volume {}", absent.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_where_their_names_say_and_nowhere_else() {
        assert_eq!(place("c1/0").unwrap(), Path::new("/run/husk/volumes/c1/0"));
        for name in ["", "c1", "c1/", "c1/x", "c1/-1", "../0", "c1/../0", "/0", "c1/0/1"] {
            assert!(place(name).is_err(), "{name:?}");
        }
    }
}
