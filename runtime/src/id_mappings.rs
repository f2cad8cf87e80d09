//! The ids of a pod's user namespace (CRI: `UserNamespace`), within its VM and on the volumes that it has of the host.

use husk_proto::{IdRange, cri};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Those of users and of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMappings {
    /// Users.
    pub users: IdRange,
    /// Groups.
    pub groups: IdRange,
}

impl IdMappings {
    /// What the namespace options of a pod or container ask for; `None`: no user namespace.
    ///
    /// # Errors
    /// [`Error::Invalid`], with what is wrong.
    pub fn of(options: Option<&cri::NamespaceOption>) -> Result<Option<Self>> {
        let Some(asked) = options.and_then(|options| options.userns_options.as_ref()) else {
            return Ok(None);
        };
        match asked.mode() {
            cri::NamespaceMode::Pod => Ok(Some(Self::between("userns_options", &asked.uids, &asked.gids)?)),
            cri::NamespaceMode::Node if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
            cri::NamespaceMode::Node => {
                Err(Error::Invalid("userns_options have mode NODE and ids; ids are for mode POD".into()))
            }
            mode => Err(Error::Invalid(format!(
                "userns_options have mode {}; a user namespace is of mode POD, and mode NODE means none",
                mode.as_str_name()
            ))),
        }
    }

    /// Those of a volume; `None`: its ids are as they are.
    ///
    /// # Errors
    /// [`Error::Invalid`], with the volume.
    pub fn of_mount(mount: &cri::Mount) -> Result<Option<Self>> {
        if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
            return Ok(None);
        }
        let what = format!("the id mappings of the volume {:?}", mount.container_path);
        Self::between(&what, &mount.uid_mappings, &mount.gid_mappings).map(Some)
    }

    fn between(what: &str, uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> Result<Self> {
        Ok(Self {
            users: range(&format!("the uids of {what}"), uids)?,
            groups: range(&format!("the gids of {what}"), gids)?,
        })
    }

    /// Adds them to the `linux` part of an OCI spec.
    pub fn put_into(&self, linux: &mut Value) {
        linux["uidMappings"] = oci(self.users);
        linux["gidMappings"] = oci(self.groups);
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user"}));
        }
    }
}

fn range(what: &str, mappings: &[cri::IdMapping]) -> Result<IdRange> {
    let wrong = |why: String| Error::Invalid(format!("{what} {why}"));
    let [mapping] = mappings else {
        return Err(wrong(format!("have {} ranges of ids; give exactly one", mappings.len())));
    };
    let &cri::IdMapping { host_id, container_id, length } = mapping;
    IdRange::new(container_id, host_id, length).map_err(|bad| {
        wrong(format!("{bad} (container_id {container_id}, host_id {host_id}, length {length})"))
    })
}

/// As the OCI runtime spec has it.
fn oci(range: IdRange) -> Value {
    json!([{"containerID": 0, "hostID": range.first(), "size": range.length()}])
}

#[cfg(test)]
mod tests {
    use husk_proto::cri::NamespaceMode;

    use super::*;

    fn range(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping { host_id, container_id, length }
    }

    fn of(
        mode: NamespaceMode,
        uids: &[cri::IdMapping],
        gids: &[cri::IdMapping],
    ) -> Result<Option<IdMappings>> {
        let users = cri::UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec() };
        IdMappings::of(Some(&cri::NamespaceOption { userns_options: Some(users), ..Default::default() }))
    }

    #[test]
    fn a_pods_has_one_range_of_each_kind() {
        let made = of(NamespaceMode::Pod, &[range(0, 1000, 10)], &[range(0, 2000, 20)]).unwrap().unwrap();
        assert_eq!((made.users.outside(9), made.users.outside(10)), (Some(1009), None));
        assert_eq!(made.groups.line(), "0 2000 20\n");
        let mut linux = json!({"namespaces": []});
        made.put_into(&mut linux);
        assert_eq!(linux["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 10}]));
        assert_eq!(linux["namespaces"], json!([{"type": "user"}]));
        let highest = [range(0, 1, u32::MAX - 1)];
        assert!(of(NamespaceMode::Pod, &highest, &highest).is_ok());

        let good = [range(0, 1, 1)];
        for (wrong, word) in [
            (vec![], "0 ranges"),
            (vec![range(0, 1000, 10), range(10, 2000, 10)], "2 ranges"),
            (vec![range(1, 1000, 10)], "must with 0"),
            (vec![range(0, 1000, 0)], "length 0"),
            (vec![range(0, 0, 10)], "host_id 0"),
            (vec![range(0, u32::MAX, 1)], "4294967294"),
            (vec![range(0, 2, u32::MAX)], "4294967294"),
        ] {
            for (kind, refused) in [
                ("uids", of(NamespaceMode::Pod, &wrong, &good)),
                ("gids", of(NamespaceMode::Pod, &good, &wrong)),
            ] {
                let Err(Error::Invalid(text)) = refused else { panic!("{wrong:?}: {refused:?}") };
                assert!(text.contains(word) && text.contains(kind), "{text}");
            }
        }
    }

    #[test]
    fn the_nodes_is_none() {
        assert_eq!(of(NamespaceMode::Node, &[], &[]).unwrap(), None);
        assert_eq!(IdMappings::of(None).unwrap(), None);
        assert_eq!(IdMappings::of(Some(&Default::default())).unwrap(), None);
        for (mode, uids) in [
            (NamespaceMode::Node, vec![range(0, 1, 1)]),
            (NamespaceMode::Container, vec![]),
            (NamespaceMode::Target, vec![]),
        ] {
            let refused = of(mode, &uids, &[]);
            assert!(
                matches!(&refused, Err(Error::Invalid(text)) if text.contains(mode.as_str_name())),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_volumes_are_both_or_none() {
        let mut mount = cri::Mount { container_path: "/data".into(), ..Default::default() };
        assert_eq!(IdMappings::of_mount(&mount).unwrap(), None);
        mount.uid_mappings = vec![range(0, 1000, 10)];
        let refused = IdMappings::of_mount(&mount);
        assert!(matches!(&refused, Err(Error::Invalid(text)) if text.contains("/data")), "{refused:?}");
        mount.gid_mappings = mount.uid_mappings.clone();
        assert!(IdMappings::of_mount(&mount).unwrap().is_some());
    }
}
