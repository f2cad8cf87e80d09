//! What a spec needs to be run in the pod's user namespace.
//!
//! The pod's network and IPC are those of the guest, which belong to its first user namespace: file systems of them
//! cannot be mounted anew from another one, and are bound as they are.

use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::id_mappings::IdMappings;
use super::namespaces::{self, Shared};
use crate::error::Result;
use crate::sandbox;

/// The guest's own mounts of the kinds that are bound.
const BOUND: [(&str, &str); 2] = [("sysfs", "/sys"), ("mqueue", "/dev/mqueue")];

/// Has the spec ask for the namespace that `shared` is in, if it is in one.
pub fn join(spec: &mut Spec, shared: &Shared) -> Result<()> {
    let Some(users) = &shared.users else { return Ok(()) };
    namespaces::join(spec, LinuxNamespaceType::User, &users.namespace);
    for mount in spec.mounts_mut().iter_mut().flatten() {
        adapt(mount, &users.mappings);
    }
    sandbox::give_files(&users.root)
}

fn adapt(mount: &mut Mount, mappings: &IdMappings) {
    let kind = mount.typ().clone().unwrap_or_default();
    if let Some((_, source)) = BOUND.iter().find(|(bound, _)| *bound == kind) {
        // With what is mounted below: the kernel lets nobody look beneath that here.
        mount.options_mut().get_or_insert_default().insert(0, "rbind".into());
        mount.set_typ(Some("bind".into())).set_source(Some(Path::new(source).to_owned()));
    }
    if kind == "devpts" {
        let unmapped = |option: &str| {
            let gid = option.strip_prefix("gid=").and_then(|gid| gid.parse().ok());
            gid.is_some_and(|gid| mappings.groups.outside(gid).is_none())
        };
        mount.options_mut().iter_mut().for_each(|options| options.retain(|option| !unmapped(option)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_belongs_to_the_guest_is_bound() {
        let mappings = |length: u32| {
            let ids = json!([{"containerID": 0, "hostID": 1000, "size": length}]);
            let spec = json!({"ociVersion": "1.1.0", "linux": {
                "namespaces": [{"type": "user"}], "uidMappings": ids, "gidMappings": ids
            }});
            IdMappings::of(&serde_json::from_value(spec).unwrap()).unwrap().unwrap()
        };
        let adapted = |mount: serde_json::Value, length: u32| {
            let mut mount: Mount = serde_json::from_value(mount).unwrap();
            adapt(&mut mount, &mappings(length));
            serde_json::to_value(mount).unwrap()
        };
        let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]});
        assert_eq!(
            adapted(sys, 10),
            json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]})
        );
        let devpts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                            "options": ["mode=0620", "gid=5"]});
        assert_eq!(adapted(devpts.clone(), 6), devpts);
        assert_eq!(adapted(devpts, 5)["options"], json!(["mode=0620"]));
        let proc = json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]});
        assert_eq!(adapted(proc.clone(), 10), proc);
    }
}
