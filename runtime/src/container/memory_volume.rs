//! Volumes of kubelet with the media "Memory" and "HugePages": a tmpfs or hugetlbfs of the guest in place of the host's.
//!
//! kubelet mounts a tmpfs for such a volume and hands over its path like any directory's. Shared as one, each byte
//! would be in the host's memory, beside what the pod has paid for, and each access would leave the guest. So the
//! guest makes a tmpfs of its own with the same limit, mode and owner, and the host's stays empty. This is done only
//! where nobody can tell: for a directory that is kubelet's emptyDir by its path (another one's content may be
//! looked at on the host), is a tmpfs itself (the medium), and is empty (nothing has to be brought into the guest)
//! when the pod's first container has it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use husk_proto::agent;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statfs, statvfs, statx};

use crate::error::{Error, Result};
use crate::mountinfo;
use crate::node::{Node, Pod};
use crate::volume::Volume;

/// The directory of kubelet's plugin for emptyDir.
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
/// `TMPFS_MAGIC` and `HUGETLBFS_MAGIC` (linux/magic.h).
const TMPFS: i64 = 0x0102_1994;
const HUGETLBFS: i64 = 0x9584_58f6;
/// A guest has huge pages of this size alone.
const HUGE_PAGE_BYTES: u64 = 2 << 20;
/// The mode's bits that a directory keeps.
const MODE: u32 = 0o7777;

/// What the guest is asked for in place of `volume`; `None`: it is shared as any other.
///
/// # Errors
/// [`Error::Unsupported`] for volumes of huge pages.
pub fn of(node: &Node, pod: &Pod, volume: &Volume) -> Result<Option<agent::MemoryVolume>> {
    let kind =
        statfs(&volume.host).map_err(|e| Error::io("look at the volume", &volume.host, e.into()))?.f_type;
    let huge = kind as i64 == HUGETLBFS;
    if !huge && kind as i64 != TMPFS {
        return Ok(None);
    }
    let own = is_empty_dir(&volume.host) && is_mount_root(&volume.host)?;
    if huge && !own {
        return Err(Error::Unsupported(format!(
            "the volume {:?} is of the host's huge pages, which a guest cannot have: use an emptyDir of the medium \"HugePages\"",
            volume.container
        )));
    }
    if own {
        let name = volume.host.display().to_string();
        let known = pod.record().memory_volumes.get(&name).copied();
        let own = match known {
            Some(own) => own,
            None => {
                let own = is_empty(&volume.host)?;
                let mut decided = own;
                // Another container's request may have come first.
                node.update_pod(pod, |record| decided = *record.memory_volumes.entry(name).or_insert(own))?;
                decided
            }
        };
        return match own {
            true => whole(&volume.host).map(Some),
            false if huge => Err(Error::State(format!(
                "the volume {:?} is of huge pages and has files on the host already, which a guest cannot have",
                volume.container
            ))),
            false => Ok(None),
        };
    }
    part(pod, &volume.host)
}

fn is_empty_dir(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == EMPTY_DIR)
}

/// Is something mounted there?
fn is_mount_root(path: &Path) -> Result<bool> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .map_err(|e| Error::io("look at the volume", path, e.into()))?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn is_empty(path: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(path).map_err(|e| Error::io("list the volume", path, e))?;
    Ok(entries.next().is_none())
}

/// All of the tmpfs or hugetlbfs at `host`.
fn whole(host: &Path) -> Result<agent::MemoryVolume> {
    let limits = statvfs(host).map_err(|e| Error::io("find the size of the volume", host, e.into()))?;
    let metadata = fs::metadata(host).map_err(|e| Error::io("look at the volume", host, e))?;
    let page_bytes = huge_page(host)?;
    Ok(agent::MemoryVolume {
        page_bytes,
        name: host.display().to_string(),
        bytes: limits.f_blocks.saturating_mul(limits.f_frsize),
        mode: metadata.mode() & MODE,
        uid: metadata.uid(),
        gid: metadata.gid(),
        ..Default::default()
    })
}

/// The size of a hugetlbfs' pages; 0: it is none.
fn huge_page(host: &Path) -> Result<u64> {
    let found = statfs(host).map_err(|e| Error::io("look at the volume", host, e.into()))?;
    let bytes = found.f_bsize as u64;
    match found.f_type as i64 == HUGETLBFS {
        false => Ok(0),
        true if bytes == HUGE_PAGE_BYTES => Ok(bytes),
        true => Err(Error::Unsupported(format!(
            "the volume {host:?} is of huge pages of {bytes} bytes; a pod's VM has those of {HUGE_PAGE_BYTES}"
        ))),
    }
}

/// A directory of a tmpfs of which the guest has its own: kubelet's `subPath`, which comes as a mount of that
/// directory elsewhere. It must be of the guest's tmpfs too, or two containers would not see each other's files.
fn part(pod: &Pod, host: &Path) -> Result<Option<agent::MemoryVolume>> {
    let metadata = fs::metadata(host).map_err(|e| Error::io("look at the volume", host, e))?;
    let own =
        pod.record().memory_volumes.into_iter().filter(|(_, own)| *own).map(|(path, _)| PathBuf::from(path));
    let mut same = own.filter(|path| fs::metadata(path).is_ok_and(|other| other.dev() == metadata.dev()));
    let Some(root) = same.next() else { return Ok(None) };
    if !metadata.is_dir() {
        return Err(Error::State(format!(
            "the volume {host:?} is a file of {root:?}, which is memory of the guest: only directories of it can be mounted"
        )));
    }
    let sub_path = path_in_file_system(host)?;
    Ok(Some(agent::MemoryVolume {
        sub_path: sub_path.display().to_string(),
        sub_path_mode: metadata.mode() & MODE,
        sub_path_uid: metadata.uid(),
        sub_path_gid: metadata.gid(),
        ..whole(&root)?
    }))
}

/// Where `path` is from the root of its file system on.
fn path_in_file_system(path: &Path) -> Result<PathBuf> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|e| Error::io("find the mount of", path, e.into()))?;
    let table = Path::new(mountinfo::TABLE);
    let text = fs::read_to_string(table).map_err(|e| Error::io("read", table, e))?;
    let (root, point) = text
        .lines()
        .find(|line| mountinfo::id(line) == Some(found.stx_mnt_id))
        .and_then(|line| Some((mountinfo::root(line)?, mountinfo::mount_point(line)?)))
        .ok_or_else(|| Error::Internal(format!("no mount of {path:?} in {}", table.display())))?;
    let below = path.strip_prefix(&point).map_err(|_| {
        Error::Internal(format!("the mount of {path:?} is at {point:?} in {}", table.display()))
    })?;
    // Joining an empty path would add a slash.
    Ok(if below.as_os_str().is_empty() { root } else { root.join(below) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_directories_are_known_by_a_whole_component() {
        let is = |path: &str| is_empty_dir(Path::new(path));
        assert!(is("/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache"));
        assert!(!is("/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/token"));
        assert!(!is("/data/xkubernetes.io~empty-dir/cache") && !is("/data"));
    }

    #[test]
    fn mount_roots_are_told_from_directories() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mount_root(Path::new("/proc")).unwrap());
        assert!(!is_mount_root(dir.path()).unwrap());
        assert!(is_empty(dir.path()).unwrap());
        fs::create_dir(dir.path().join("x")).unwrap();
        assert!(!is_empty(dir.path()).unwrap());
    }

    #[test]
    fn the_size_and_mode_are_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o2750)).unwrap();
        let volume = whole(dir.path()).unwrap();
        assert_eq!((volume.mode, Path::new(&volume.name)), (0o2750, dir.path()));
        assert!(volume.bytes > 0);
    }

    #[test]
    fn a_place_is_found_from_its_file_systems_root() {
        assert_eq!(path_in_file_system(Path::new("/proc/sys/kernel")).unwrap(), Path::new("/sys/kernel"));
    }
}
