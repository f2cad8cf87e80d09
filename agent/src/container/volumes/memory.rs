//! Volumes in memory: one tmpfs or hugetlbfs each, shared by the pod's containers.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use husk_proto::agent::MemoryVolume;
use nix::mount::{MsFlags, mount};

use crate::error::{Context, Error, Result};
use crate::inroot::Root;
use crate::owner::Owner;
use crate::paths;

/// The most of one pod.
const MAX_VOLUMES: usize = 1024;

/// The longest name, in bytes: a path's.
const MAX_NAME: usize = 4096;

/// The mode's bits that a request may set.
const MODE: u32 = 0o7777;

/// The pod's volumes in memory by their names.
#[derive(Default)]
pub struct Memory(tokio::sync::Mutex<HashMap<String, PathBuf>>);

impl Memory {
    /// Where the whole volume is, made for the first who asks.
    pub async fn place(&self, volume: &MemoryVolume) -> Result<PathBuf> {
        if !(1..=MAX_NAME).contains(&volume.name.len()) {
            return Err(Error::Invalid(format!("the name of a volume in memory has 1 to {MAX_NAME} bytes")));
        }
        let mut all = self.0.lock().await;
        if let Some(place) = all.get(&volume.name) {
            return Ok(place.clone());
        }
        if all.len() >= MAX_VOLUMES {
            return Err(Error::Exhausted(format!("the pod has {MAX_VOLUMES} volumes in memory already")));
        }
        let place = Path::new(paths::MEMORY).join(all.len().to_string());
        fs::create_dir_all(&place).context(|| format!("making {}", place.display()))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let kind = if volume.page_bytes == 0 { "tmpfs" } else { "hugetlbfs" };
        mount(Some(kind), &place, Some(kind), flags, Some(options(volume).as_str()))
            .context(|| format!("mounting a volume in memory on {}", place.display()))?;
        all.insert(volume.name.clone(), place.clone());
        Ok(place)
    }
}

/// As tmpfs(5) has them, where a size of 0 is no limit, and hugetlbpage.rst, where it is one.
fn options(volume: &MemoryVolume) -> String {
    let MemoryVolume { bytes, mode, uid, gid, page_bytes, .. } = volume;
    let owner = format!("mode={:o},uid={uid},gid={gid}", mode & MODE);
    match (page_bytes, bytes) {
        (0, bytes) => format!("size={bytes},{owner}"),
        (page, 0) => format!("pagesize={page},{owner}"),
        (page, bytes) => format!("pagesize={page},size={bytes},{owner}"),
    }
}

/// Mounts the directory that `volume` names of the one at `whole` on `place`; it is made if it is not there. Containers
/// may rename what they like meanwhile, so it is known by a descriptor alone.
pub fn bind(whole: &Path, volume: &MemoryVolume, place: &Path) -> Result<()> {
    let failed = || format!("the directory {:?} of a volume in memory", volume.sub_path);
    let root = Root::open(whole).context(|| format!("opening {}", whole.display()))?;
    let sub_path = Path::new(&volume.sub_path);
    let is_new = root.directory(sub_path).is_err();
    root.create_dir_all(sub_path, Owner::default()).context(failed)?;
    let found = root.directory(sub_path).context(failed)?;
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    if is_new {
        chown(&by_descriptor, Some(volume.sub_path_uid), Some(volume.sub_path_gid)).context(failed)?;
        let mode = fs::Permissions::from_mode(volume.sub_path_mode & MODE);
        fs::set_permissions(&by_descriptor, mode).context(failed)?;
    }
    fs::create_dir_all(place).context(|| format!("making {}", place.display()))?;
    let none = None::<&str>;
    mount(Some(&by_descriptor), place, none, MsFlags::MS_BIND, none)
        .context(|| format!("mounting a volume in memory on {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_has_no_other_bits() {
        let volume = MemoryVolume { bytes: 4096, mode: 0o42777, uid: 1, gid: u32::MAX, ..Default::default() };
        assert_eq!(options(&volume), "size=4096,mode=2777,uid=1,gid=4294967295");
    }

    #[tokio::test]
    async fn names_have_bounds() {
        for name in ["", &"n".repeat(4097)] {
            let volume = MemoryVolume { name: name.into(), ..Default::default() };
            assert!(matches!(Memory::default().place(&volume).await, Err(Error::Invalid(_))));
        }
    }
}
