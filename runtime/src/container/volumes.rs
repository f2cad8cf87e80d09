//! A container's volumes by their kinds: what the host shares, and what the guest makes itself.

use std::path::PathBuf;

use husk_proto::agent::{self, device_volume, guest_volume};
use husk_proto::cri;

use super::device::{self, Requested};
use super::media::Attached;
use super::memory_volume;
use crate::error::{Error, Result};
use crate::id_mappings::IdMappings;
use crate::node::{Node, Pod};
use crate::store::{HostDevice, Medium};
use crate::volume::{self, Volume};

/// Volumes and devices of one container, as the agent has it.
const MAX_VOLUMES: usize = 1024;
/// The longest path in an image, in bytes.
const MAX_SUB_PATH: usize = 4096;

/// All volumes of one container, devices among them.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Of the host's file systems.
    pub host: Vec<Volume>,
    /// The guest's own, in the order of its request.
    pub guest: Vec<GuestVolume>,
    /// What is to be in block slots for them, each once.
    pub media: Vec<Medium>,
}

/// A volume that the guest makes.
#[derive(Clone, Debug)]
pub struct GuestVolume {
    /// In the container; absolute, without `..`.
    pub container: PathBuf,
    /// Not to be written.
    pub read_only: bool,
    /// Index of its medium.
    medium: Option<usize>,
    kind: guest_volume::Kind,
}

impl GuestVolume {
    /// What the agent is asked for, once the container's media are in their slots.
    pub fn request(&self, media: &[Attached]) -> agent::GuestVolume {
        let mut kind = self.kind.clone();
        if let Some(medium) = self.medium.and_then(|medium| media.get(medium)) {
            let serial = medium.serial.clone();
            match &mut kind {
                guest_volume::Kind::Image(volume) => volume.serial = serial,
                guest_volume::Kind::Device(volume) => {
                    volume.device = Some(device_volume::Device::Serial(serial));
                    volume.read_only = medium.read_only;
                }
                guest_volume::Kind::Memory(_) => {}
            }
        }
        agent::GuestVolume { kind: Some(kind) }
    }
}

impl Volumes {
    fn add(&mut self, container: PathBuf, read_only: bool, medium: Option<usize>, kind: guest_volume::Kind) {
        self.guest.push(GuestVolume { container, read_only, medium, kind });
    }

    /// The index of an image among the media.
    fn image(&mut self, id: &str) -> usize {
        if let Some(index) = self.media.iter().position(|medium| medium.image_id == id) {
            return index;
        }
        self.media.push(Medium { image_id: id.to_owned(), ..Default::default() });
        self.media.len() - 1
    }

    /// The index of a device among the media. Who writes to it by one of its names can do so by all.
    fn device(&mut self, device: HostDevice) -> usize {
        let medium = Medium { device: Some(device), ..Default::default() };
        match self.media.iter().position(|other| other.key() == medium.key()) {
            Some(index) => {
                let writable = medium.device.is_some_and(|device| device.writable);
                self.media[index].device.iter_mut().for_each(|known| known.writable |= writable);
                index
            }
            None => {
                self.media.push(medium);
                self.media.len() - 1
            }
        }
    }

    fn add_device(&mut self, asked: &cri::Device) -> Result<()> {
        let Some(device) = device::requested(asked)? else { return Ok(()) };
        let mut made = agent::DeviceVolume {
            access: device.access,
            mode: device.mode,
            uid: device.uid,
            gid: device.gid,
            ..Default::default()
        };
        let medium = match device.source {
            Requested::Guest(name) => {
                made.device = Some(device_volume::Device::Guest(name.to_owned()));
                None
            }
            Requested::Host { device, bytes } => {
                made.bytes = bytes;
                Some(self.device(device))
            }
        };
        self.add(device.container, false, medium, guest_volume::Kind::Device(made));
        Ok(())
    }
}

impl Node {
    /// What a container's request says of its volumes and devices, checked.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unsupported`] and [`Error::Missing`], with the path.
    pub(super) fn volumes(
        &self,
        pod: &Pod,
        config: &cri::ContainerConfig,
        users: Option<&IdMappings>,
    ) -> Result<Volumes> {
        let asked = config.mounts.len().saturating_add(config.devices.len());
        if asked > MAX_VOLUMES {
            return Err(Error::Invalid(format!("{asked} mounts and devices; at most {MAX_VOLUMES}")));
        }
        device::check_cdi(&config.cdi_devices)?;
        config.mounts.iter().try_for_each(|mount| check_ids(mount, users))?;
        let mut volumes = Volumes::default();
        let (images, mounts) = config.mounts.iter().cloned().partition(|mount| mount.image.is_some());
        let images: Vec<cri::Mount> = images;
        for mount in images {
            self.add_image(&mut volumes, mount)?;
        }
        for volume in volume::requested(&cri::ContainerConfig { mounts, ..Default::default() })? {
            match memory_volume::of(self, pod, &volume)? {
                None => volumes.host.push(volume),
                Some(mut memory) => {
                    if let Some(mappings) = &volume.mappings {
                        map_owners(&mut memory, mappings);
                    }
                    let kind = guest_volume::Kind::Memory(memory);
                    volumes.add(volume.container, volume.read_only, None, kind);
                }
            }
        }
        config.devices.iter().try_for_each(|device| volumes.add_device(device))?;
        Ok(volumes)
    }

    /// An image is read-only whatever the request says (CRI: "All image mounts are per feature definition readonly").
    fn add_image(&self, volumes: &mut Volumes, mount: cri::Mount) -> Result<()> {
        let container = volume::container_path(&mount.container_path)?;
        let name = mount.image.unwrap_or_default().image;
        if name.is_empty() {
            return Err(Error::Invalid(format!("the image of the volume {container:?} has no name")));
        }
        if !mount.host_path.is_empty() {
            return Err(Error::Invalid(format!(
                "the volume {container:?} has both an image, {name:?}, and a host_path, {:?}: only one can be",
                mount.host_path
            )));
        }
        if mount.image_sub_path.len() > MAX_SUB_PATH || mount.image_sub_path.contains('\0') {
            return Err(Error::Invalid(format!(
                "image_sub_path of {container:?} must be a path of at most {MAX_SUB_PATH} bytes"
            )));
        }
        let image = self.images.status(&name)?.ok_or_else(|| {
            Error::Missing(format!(
                "image {name:?} of the volume {container:?} is not there: pull it first (PullImage)"
            ))
        })?;
        if image.is_disk {
            return Err(Error::Invalid(format!(
                "image {name:?} of the volume {container:?} is the disk of a machine, which can only be a container's \
                 root; a volume needs an image of files"
            )));
        }
        let medium = volumes.image(&image.id);
        let made = agent::ImageVolume { serial: String::new(), sub_path: mount.image_sub_path };
        volumes.add(container, true, Some(medium), guest_volume::Kind::Image(made));
        Ok(())
    }
}

/// kubelet gives a volume the ids of its pod.
fn check_ids(mount: &cri::Mount, users: Option<&IdMappings>) -> Result<()> {
    match IdMappings::of_mount(mount)? {
        Some(mappings) if users != Some(&mappings) => Err(Error::Invalid(format!(
            "the id mappings of the volume {:?} are not those of its pod's user namespace",
            mount.container_path
        ))),
        _ => Ok(()),
    }
}

/// The directory's owners on the host are the container's. One that it does not have stays what it is: nobody.
fn map_owners(memory: &mut agent::MemoryVolume, mappings: &IdMappings) {
    for (id, range) in [
        (&mut memory.uid, mappings.users),
        (&mut memory.gid, mappings.groups),
        (&mut memory.sub_path_uid, mappings.users),
        (&mut memory.sub_path_gid, mappings.groups),
    ] {
        *id = range.outside(*id).unwrap_or(*id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(minor: u32, writable: bool) -> HostDevice {
        HostDevice { path: format!("/dev/sd{minor}"), major: 8, minor, writable }
    }

    #[test]
    fn each_medium_is_there_once() {
        let mut volumes = Volumes::default();
        assert_eq!([volumes.image("a"), volumes.image("b"), volumes.image("a")], [0, 1, 0]);
        assert_eq!([volumes.device(device(1, false)), volumes.device(device(2, false))], [2, 3]);
        assert_eq!(volumes.device(device(1, true)), 2);
        assert_eq!(volumes.device(device(1, false)), 2);
        let writable = |index: usize| volumes.media[index].device.as_ref().unwrap().writable;
        assert_eq!((volumes.media.len(), writable(2), writable(3)), (4, true, false));
    }

    #[test]
    fn the_agent_is_told_the_slots_of_the_media() {
        let mut volumes = Volumes::default();
        let image = volumes.image("a");
        volumes.add("/i".into(), true, Some(image), guest_volume::Kind::Image(Default::default()));
        let disk = volumes.device(device(1, false));
        volumes.add("/d".into(), false, Some(disk), guest_volume::Kind::Device(Default::default()));
        let attached = |slot: u8| Attached { serial: husk_vmm::config::slot_serial(slot), read_only: true };
        let media = [attached(3), attached(5)];
        let told: Vec<_> = volumes.guest.iter().map(|volume| volume.request(&media).kind).collect();
        let Some(guest_volume::Kind::Image(image)) = &told[0] else { panic!("{told:?}") };
        assert_eq!(image.serial, "husk-slot-3");
        let Some(guest_volume::Kind::Device(disk)) = &told[1] else { panic!("{told:?}") };
        assert_eq!(disk.device, Some(device_volume::Device::Serial("husk-slot-5".into())));
        assert!(disk.read_only);
    }
}
