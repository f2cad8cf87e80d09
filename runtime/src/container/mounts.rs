//! The mounts of a container's OCI spec.

use serde_json::{Value, json};

use super::volumes::Volumes;
use crate::volume;

/// The kernel's file systems, the pod's files, then the volumes. A volume takes the place of a mount of the
/// same destination, and what lies deeper comes later.
pub fn all(id: &str, privileged: bool, volumes: &Volumes) -> Vec<Value> {
    let sys_option = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", sys_option]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", sys_option]}),
    ];
    for (source, destination) in [
        ("husk:hostname", "/etc/hostname"),
        ("husk:hosts", "/etc/hosts"),
        ("husk:resolv.conf", "/etc/resolv.conf"),
    ] {
        mounts.push(json!({"destination": destination, "type": "bind", "source": source,
                           "options": ["bind", "rw"]}));
    }
    let places = volumes.host.iter().map(|volume| &volume.container);
    let places: Vec<_> = places.chain(volumes.guest.iter().map(|volume| &volume.container)).collect();
    mounts.retain(|mount| !places.iter().any(|place| mount["destination"] == json!(place)));
    mounts.extend(volumes.host.iter().enumerate().map(|(number, volume)| {
        let propagation = if volume.follows_host { "rslave" } else { "rprivate" };
        // The host refuses writes to what is read-only. The guest's own flag would hold for what is mounted below
        // as well, whether that was asked for or not.
        let access = if volume.read_only && volume.recursively { "ro" } else { "rw" };
        json!({"destination": volume.container, "type": "bind", "source": volume::source(id, number),
               "options": ["rbind", propagation, access]})
    }));
    mounts.extend(volumes.guest.iter().enumerate().map(|(number, volume)| {
        let access = if volume.read_only { "ro" } else { "rw" };
        json!({"destination": volume.container, "type": "bind",
               "source": format!("{}{number}", husk_proto::GUEST_VOLUME_SOURCE),
               "options": ["bind", "rprivate", "nosuid", access]})
    }));
    let depth = |mount: &Value| mount["destination"].as_str().map_or(0, |path| path.matches('/').count());
    mounts.sort_by_key(depth);
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Volume;

    #[test]
    fn volumes_replace_what_they_cover_and_deeper_ones_come_later() {
        let volume = |path: &str| Volume {
            host: "/host".into(),
            container: path.into(),
            read_only: true,
            recursively: false,
            follows_host: false,
            mappings: None,
        };
        let host = vec![volume("/a/b/c"), volume("/etc/hosts"), volume("/a")];
        let volumes = Volumes { host, ..Default::default() };
        let mounts = all("c", false, &volumes);
        let of = |path: &str| mounts.iter().position(|mount| mount["destination"] == path).unwrap();
        assert!(of("/a") < of("/a/b/c"));
        let hosts: Vec<_> = mounts.iter().filter(|mount| mount["destination"] == "/etc/hosts").collect();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0]["source"], "husk:volume/c/1");
        assert_eq!(hosts[0]["options"], json!(["rbind", "rprivate", "rw"]));
        let deep = Volume { recursively: true, ..volume("/d") };
        let mounts = all("c", false, &Volumes { host: vec![deep], ..Default::default() });
        let deep = mounts.iter().find(|mount| mount["destination"] == "/d").unwrap();
        assert_eq!(deep["options"], json!(["rbind", "rprivate", "ro"]));
    }
}
