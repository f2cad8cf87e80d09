//! Containers of disk images: what the guest has to know of the disk.

use husk_images::Disk;
use husk_proto::{agent, cri};

use crate::error::{Error, Result};

/// The annotation, of a container or else of its pod, that names the partition with the root.
pub const PARTITION: &str = "io.husk.disk.partition";
/// The longest name of one, in bytes; as the agent has it.
const NAME_MAX: usize = 255;

/// What `disk` is to the container that `config` asks for.
pub fn machine_disk(
    disk: &Disk,
    config: &cri::ContainerConfig,
    pod: &cri::PodSandboxConfig,
) -> Result<agent::MachineDisk> {
    let asked = config.annotations.get(PARTITION).or_else(|| pod.annotations.get(PARTITION));
    let partition = asked.cloned().unwrap_or_default();
    if partition.len() > NAME_MAX || partition.chars().any(char::is_control) {
        return Err(Error::Invalid(format!(
            "the annotation {PARTITION} must be a partition's number or label, of at most {NAME_MAX} bytes"
        )));
    }
    Ok(agent::MachineDisk { partition, bytes: disk.extents.iter().map(|extent| extent.length).sum() })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use husk_images::DiskExtent;

    use super::*;

    fn annotated(value: &str) -> HashMap<String, String> {
        [(PARTITION.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn the_containers_word_goes_before_the_pods() {
        let disk = Disk { extents: vec![DiskExtent { file: "d".into(), offset: 0, length: 1024 }] };
        let container = |annotations| cri::ContainerConfig { annotations, ..Default::default() };
        let pod = |annotations| cri::PodSandboxConfig { annotations, ..Default::default() };
        let named = |config, pod| machine_disk(&disk, &config, &pod).unwrap().partition;
        assert_eq!(named(container([].into()), pod([].into())), "");
        assert_eq!(named(container([].into()), pod(annotated("2"))), "2");
        assert_eq!(named(container(annotated("root")), pod(annotated("2"))), "root");
        assert_eq!(machine_disk(&disk, &container([].into()), &pod([].into())).unwrap().bytes, 1024);
        for bad in ["a\nb", &"x".repeat(256)] {
            let refused = machine_disk(&disk, &container(annotated(bad)), &pod([].into()));
            assert!(matches!(refused, Err(Error::Invalid(_))), "{bad:?}");
        }
    }
}
