//! Where the spec's mounts of volumes are from.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::device::Node;
use crate::error::{Error, Result};

/// The directory in which the container library makes nodes.
const DEV: &str = "/dev";

/// Where a volume is.
#[derive(Debug)]
pub struct Place {
    /// In the guest.
    pub path: PathBuf,
    /// A device that the container can have a node of its own of.
    pub node: Option<Node>,
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self { path, node: None }
    }
}

/// Puts the volumes' places into the mounts that name them by number. A device in the container's own /dev is made
/// there in place of the mount: programs take a node on which something is mounted for a disk in use.
pub fn name(spec: &mut Spec, places: &[Place]) -> Result<()> {
    let asked = spec.mounts().clone().unwrap_or_default();
    let own_dev = asked
        .iter()
        .any(|mount| mount.destination() == Path::new(DEV) && mount.typ().as_deref() == Some("tmpfs"));
    let (mut mounts, mut nodes) = (Vec::new(), Vec::new());
    for mut mount in asked {
        if let Some(place) = named(&mount, places)? {
            if let Some(node) = place.node.filter(|_| own_dev && is_in_dev(mount.destination())) {
                nodes.push(node.at(mount.destination())?);
                continue;
            }
            mount.set_source(Some(place.path.clone()));
        }
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
    if let Some(linux) = spec.linux_mut() {
        linux.devices_mut().get_or_insert_default().extend(nodes);
    }
    Ok(())
}

/// The place of the volume that a mount is of, if it is of one.
fn named<'a>(mount: &Mount, places: &'a [Place]) -> Result<Option<&'a Place>> {
    let source = mount.source().as_ref().and_then(|source| source.to_str());
    let Some(name) = source.and_then(|source| source.strip_prefix(husk_proto::GUEST_VOLUME_SOURCE)) else {
        return Ok(None);
    };
    let place = name.parse::<usize>().ok().and_then(|number| places.get(number));
    let place = place.ok_or_else(|| {
        Error::Invalid(format!("the request has no volume {name:?}; it has {}", places.len()))
    })?;
    Ok(Some(place))
}

/// Not deeper: what lies between may be another volume, and the container library would let everybody write to a
/// directory that it made.
fn is_in_dev(path: &Path) -> bool {
    path.parent() == Some(Path::new(DEV)) && path.file_name().is_some()
}

#[cfg(test)]
mod tests {
    use husk_proto::agent::DeviceVolume;
    use serde_json::{Value, json};

    use super::super::device::Device;
    use super::*;

    fn spec(mounts: &[(&str, &str, &str)]) -> Spec {
        let mount = |(kind, destination, source): &(&str, &str, &str)| -> Value {
            json!({"destination": destination, "type": kind, "source": source})
        };
        let mounts: Vec<_> = mounts.iter().map(mount).collect();
        serde_json::from_value(json!({"ociVersion": "1.1.0", "mounts": mounts, "linux": {}})).unwrap()
    }

    fn sources(spec: &Spec) -> Vec<PathBuf> {
        spec.mounts().iter().flatten().map(|mount| mount.source().clone().unwrap()).collect()
    }

    fn places() -> [Place; 2] {
        let device = Device { block: true, major: 254, minor: 16 };
        let node = Node::new(device, &DeviceVolume { mode: 0o640, ..DeviceVolume::default() });
        [PathBuf::from("/zero").into(), Place { path: "/one".into(), node: Some(node) }]
    }

    #[test]
    fn volumes_are_named_by_their_numbers() {
        let mut two = spec(&[
            ("bind", "/v", "husk:guest-volume/1"),
            ("bind", "/etc/hosts", "/run/husk/etc/hosts"),
            ("bind", "/w", "husk:guest-volume/0"),
        ]);
        name(&mut two, &places()).unwrap();
        assert_eq!(sources(&two), ["/one", "/run/husk/etc/hosts", "/zero"].map(PathBuf::from));
        for number in ["2", "", "-1", "x", "0/..", "18446744073709551616"] {
            let mut one = spec(&[("bind", "/v", &format!("husk:guest-volume/{number}"))]);
            assert!(matches!(name(&mut one, &places()), Err(Error::Invalid(_))), "{number:?}");
        }
    }

    #[test]
    fn a_device_in_the_containers_own_dev_is_a_node_there() {
        let made = |dev: &str, number: u32, path: &str| {
            let source = format!("husk:guest-volume/{number}");
            let mut spec = spec(&[(dev, "/dev", "d"), ("bind", path, &source)]);
            name(&mut spec, &places()).unwrap();
            let nodes: Vec<_> =
                spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()).collect();
            let nodes: Vec<_> = nodes.iter().map(|node| (node.path().clone(), node.file_mode())).collect();
            (sources(&spec).len(), nodes)
        };
        assert_eq!(made("tmpfs", 1, "/dev/xvda"), (1, vec![("/dev/xvda".into(), Some(0o640))]));
        for (dev, number, path) in [
            ("bind", 1, "/dev/xvda"),
            ("tmpfs", 0, "/dev/xvda"),
            ("tmpfs", 1, "/dev/shm/xvda"),
            ("tmpfs", 1, "/data/xvda"),
            ("tmpfs", 1, "/dev/.."),
            ("tmpfs", 1, "/dev"),
        ] {
            assert_eq!(made(dev, number, path), (2, vec![]), "{dev} {number} {path}");
        }
    }
}
