//! What a container's request says of its volumes, checked.

use std::path::{Component, Path, PathBuf};

use husk_proto::cri;

use crate::error::{Error, Result};
use crate::id_mappings::IdMappings;

/// Volumes of one container; kubelet has a handful.
const MAX_VOLUMES: usize = 1024;

/// A volume: where it is on the host and in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the host, without symbolic links.
    pub host: PathBuf,
    /// In the container; absolute, without `..`.
    pub container: PathBuf,
    /// Not to be written.
    pub read_only: bool,
    /// Nor what is mounted below it.
    pub recursively: bool,
    /// What is mounted on the host later is seen as well (`HostToContainer`).
    pub follows_host: bool,
    /// The ids on the host are the container's.
    pub mappings: Option<IdMappings>,
}

/// The volumes of a request, none of them an image's. A directory that is not there is made, as other runtimes do.
///
/// # Errors
/// [`Error::Invalid`], with the path.
pub fn requested(config: &cri::ContainerConfig) -> Result<Vec<Volume>> {
    if config.mounts.len() > MAX_VOLUMES {
        return Err(Error::Invalid(format!("{} mounts; at most {MAX_VOLUMES}", config.mounts.len())));
    }
    config.mounts.iter().map(volume).collect()
}

fn volume(mount: &cri::Mount) -> Result<Volume> {
    let container = container_path(&mount.container_path)?;
    let follows_host = match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => false,
        cri::MountPropagation::PropagationHostToContainer => true,
        cri::MountPropagation::PropagationBidirectional => {
            return Err(Error::Invalid(format!(
                "mount propagation Bidirectional of {container:?}: what the guest mounts is in the guest's kernel \
                 and cannot appear on the host; use None or HostToContainer"
            )));
        }
    };
    if mount.recursive_read_only && (!mount.readonly || follows_host) {
        return Err(Error::Invalid(format!(
            "recursive_read_only of {container:?} needs readonly and propagation None"
        )));
    }
    Ok(Volume {
        host: host_path(&mount.host_path)?,
        container,
        read_only: mount.readonly,
        recursively: mount.recursive_read_only,
        follows_host,
        mappings: IdMappings::of_mount(mount)?,
    })
}

/// Where something is mounted in a container, checked.
pub fn container_path(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain && path != Path::new("/") {
        // Without doubled and trailing slashes, so that two mounts of one path are seen to be.
        Ok(path.components().collect())
    } else {
        Err(Error::Invalid(format!(
            "container_path {text:?} must be absolute, without \"..\", and not the root"
        )))
    }
}

fn host_path(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Error::Invalid(format!("host_path {text:?} must be absolute")));
    }
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            std::fs::create_dir_all(path).map_err(|e| Error::io("make the volume's directory", path, e))?;
            path.canonicalize().map_err(|e| Error::io("resolve", path, e))
        }
        Err(e) => Err(Error::Invalid(format!("host_path {text:?}: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(container_path: &str, host_path: &Path) -> cri::Mount {
        cri::Mount {
            container_path: container_path.into(),
            host_path: host_path.display().to_string(),
            ..Default::default()
        }
    }

    #[test]
    fn links_are_resolved_and_missing_directories_made() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        let made = volume(&request("/data//x/", &real.join("link/new/deep"))).unwrap();
        assert_eq!((made.host, made.container), (real.join("new/deep"), PathBuf::from("/data/x")));
        assert!(real.join("new/deep").is_dir());
        std::os::unix::fs::symlink("/nonexistent/x", real.join("dangling")).unwrap();
        assert!(matches!(volume(&request("/d", &real.join("dangling"))), Err(Error::Invalid(_))));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let root = Path::new("/");
        for path in ["", "data", "/", "/a/../b", "/.."] {
            assert!(volume(&request(path, root)).unwrap_err().to_string().contains(path), "{path:?}");
        }
        assert!(volume(&request("/d", Path::new("relative"))).is_err());
        let both = cri::Mount { propagation: 2, ..request("/d", root) };
        assert!(volume(&both).unwrap_err().to_string().contains("Bidirectional"));
        let half = cri::Mount { recursive_read_only: true, ..request("/d", root) };
        assert!(volume(&half).unwrap_err().to_string().contains("readonly"));
    }
}
