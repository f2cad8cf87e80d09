//! Which of the guest's ids a container's are (user_namespaces(7)).

use std::fs;

use husk_proto::IdRange;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::owner::Owner;

/// Those of users and of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    /// Users.
    pub users: IdRange,
    /// Groups.
    pub groups: IdRange,
}

impl IdMappings {
    /// What a spec asks for; `None`: the guest's own user namespace.
    pub fn of(spec: &Spec) -> Result<Option<Self>> {
        let Some(linux) = spec.linux().as_ref() else { return Ok(None) };
        let (users, groups) = (linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref());
        let namespaces = linux.namespaces().iter().flatten();
        if namespaces.filter(|namespace| namespace.typ() == LinuxNamespaceType::User).count() == 0 {
            return match (users, groups) {
                (None | Some([]), None | Some([])) => Ok(None),
                _ => Err(Error::Invalid("the OCI spec maps ids without a user namespace".into())),
            };
        }
        Ok(Some(Self {
            users: range("uid", users.unwrap_or_default())?,
            groups: range("gid", groups.unwrap_or_default())?,
        }))
    }

    /// Gives the user namespace that `process` has just made its ids.
    pub fn write(&self, process: Pid) -> std::io::Result<()> {
        fs::write(format!("/proc/{process}/uid_map"), self.users.line())?;
        fs::write(format!("/proc/{process}/gid_map"), self.groups.line())
    }
}

fn range(what: &str, mappings: &[LinuxIdMapping]) -> Result<IdRange> {
    let wrong = |why: String| Error::Invalid(format!("linux.{what}Mappings of the OCI spec {why}"));
    let [mapping] = mappings else { return Err(wrong("must have one entry".into())) };
    IdRange::new(mapping.container_id(), mapping.host_id(), mapping.size())
        .map_err(|bad| wrong(bad.to_string()))
}

/// A container's user and group, by the guest's ids.
///
/// # Errors
/// [`Error::Invalid`] for one that the container does not have.
pub fn owner(uid: u32, gid: u32, mappings: Option<&IdMappings>) -> Result<Owner> {
    let Some(mappings) = mappings else { return Ok(Owner { uid, gid }) };
    let find = |what: &str, id: u32, range: IdRange| {
        range.outside(id).ok_or_else(|| {
            let length = range.length();
            Error::Invalid(format!("{what} {id} is none of the {length} ids of the pod's user namespace"))
        })
    };
    Ok(Owner { uid: find("user", uid, mappings.users)?, gid: find("group", gid, mappings.groups)? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mappings(namespaces: Value, uids: Value, gids: Value) -> Result<Option<IdMappings>> {
        let spec = json!({"ociVersion": "1.1.0", "linux": {
            "namespaces": namespaces, "uidMappings": uids, "gidMappings": gids
        }});
        IdMappings::of(&serde_json::from_value(spec).unwrap())
    }

    fn one(inside: u32, first: u32, length: u32) -> Value {
        json!([{"containerID": inside, "hostID": first, "size": length}])
    }

    #[test]
    fn one_range_of_each_from_0_on() {
        let user = json!([{"type": "user"}]);
        let made = mappings(user.clone(), one(0, 1000, 10), one(0, 2000, 20)).unwrap().unwrap();
        assert_eq!(owner(9, 19, Some(&made)).unwrap(), Owner { uid: 1009, gid: 2019 });
        for (uid, gid, word) in [(10, 0, "user 10"), (0, 20, "group 20"), (u32::MAX, 0, "user 4294967295")] {
            let refused = owner(uid, gid, Some(&made)).unwrap_err();
            assert!(refused.to_string().contains(word), "{refused}");
        }
        let highest = mappings(user.clone(), one(0, 1, u32::MAX - 1), one(0, u32::MAX - 1, 1));
        assert!(highest.is_ok_and(|made| made.is_some()));
        for wrong in [
            json!([]),
            one(1, 1000, 10),
            one(0, 0, 10),
            one(0, 1000, 0),
            one(0, u32::MAX, 1),
            one(0, 1, u32::MAX),
            json!([{"containerID": 0, "hostID": 1, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1}]),
        ] {
            for (uids, gids) in [(wrong.clone(), one(0, 1, 1)), (one(0, 1, 1), wrong.clone())] {
                let refused = mappings(user.clone(), uids, gids);
                assert!(matches!(refused, Err(Error::Invalid(_))), "{wrong}: {refused:?}");
            }
        }
    }

    #[test]
    fn without_the_namespace_there_are_none() {
        assert_eq!(mappings(json!([]), json!([]), json!([])).unwrap(), None);
        assert!(matches!(mappings(json!([]), one(0, 1, 1), json!([])), Err(Error::Invalid(_))));
        assert_eq!(owner(7, 8, None).unwrap(), Owner { uid: 7, gid: 8 });
    }
}
