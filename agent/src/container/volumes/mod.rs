//! The volumes that the guest makes itself: of images, in memory, and nodes of devices.

mod device;
mod image;
mod memory;
mod places;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use husk_proto::agent::{GuestVolume, guest_volume};
use oci_spec::runtime::{LinuxDeviceCgroup, Spec};

pub use self::device::Media;
pub use self::memory::Memory;
use self::places::Place;
use super::Tools;
use super::idmapped;
use super::images::Source;
use super::namespaces::PodUsers;
use super::root::unmount;
use crate::error::{Context, Error, Result};
use crate::paths;

/// The most volumes of one container.
const MAX_VOLUMES: usize = 1024;

/// What one container has of them.
#[derive(Debug)]
pub struct Volumes {
    /// Where what is this container's alone is.
    own: PathBuf,
    held: Mutex<Vec<Held>>,
}

/// What is given back when the container goes.
#[derive(Clone, Debug)]
enum Held {
    Image(Source),
    /// A block device, by its serial.
    Medium(String),
    /// A mount of the container's own.
    Mount(PathBuf),
}

impl Volumes {
    /// Makes the volumes, and names their places and rights in the spec. Nothing is left after a failure.
    pub async fn make(
        tools: &Tools,
        id: &str,
        volumes: &[GuestVolume],
        spec: &mut Spec,
        users: Option<&PodUsers>,
    ) -> Result<Self> {
        if volumes.len() > MAX_VOLUMES {
            return Err(Error::Invalid(format!("{} volumes; at most {MAX_VOLUMES}", volumes.len())));
        }
        let made = Self { own: Path::new(paths::GUEST_VOLUMES).join(id), held: Mutex::default() };
        let outcome = async {
            let (mut places, mut rules) = (Vec::new(), Vec::new());
            for volume in volumes {
                let (place, rule) = made.make_one(tools, places.len(), volume, users).await?;
                places.push(place);
                rules.extend(rule);
            }
            places::name(spec, &places)?;
            allow(spec, rules);
            Ok(())
        };
        match outcome.await {
            Ok(()) => Ok(made),
            Err(error) => {
                made.give_up(tools).await;
                Err(error)
            }
        }
    }

    async fn make_one(
        &self,
        tools: &Tools,
        number: usize,
        volume: &GuestVolume,
        users: Option<&PodUsers>,
    ) -> Result<(Place, Option<LinuxDeviceCgroup>)> {
        match &volume.kind {
            None => Err(Error::Invalid(format!("volume {number} is of no kind"))),
            Some(guest_volume::Kind::Image(volume)) => {
                let (source, image) = image::acquire(&tools.images, volume).await?;
                self.hold(Held::Image(source));
                let image = image::place(&image, volume)?;
                let Some(users) = users else { return Ok((image.into(), None)) };
                let place = self.own.join(number.to_string());
                self.hold(Held::Mount(place.clone()));
                image::make_place(&image, &place)?;
                idmapped::mount(&image, &place, users)?;
                Ok((place.into(), None))
            }
            Some(guest_volume::Kind::Memory(volume)) => {
                let whole = tools.memory.place(volume).await?;
                if volume.sub_path.is_empty() {
                    return Ok((whole.into(), None));
                }
                let place = self.own.join(number.to_string());
                self.hold(Held::Mount(place.clone()));
                memory::bind(&whole, volume, &place)?;
                Ok((place.into(), None))
            }
            Some(guest_volume::Kind::Device(volume)) => {
                let (device, held) = device::find(&tools.media, volume).await?;
                held.into_iter().for_each(|serial| self.hold(Held::Medium(serial)));
                let rule = device::rule(&device, &volume.access)?;
                let place = self.own.join(number.to_string());
                let node = device::Node::new(device, volume);
                device::make_node(&place, &node)?;
                // One made from within a user namespace opens nothing.
                let node = users.is_none().then_some(node);
                Ok((Place { path: place, node }, Some(rule)))
            }
        }
    }

    fn hold(&self, held: Held) {
        self.held().push(held);
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what the container had; its processes are gone. Can be repeated when a step failed.
    pub async fn remove(&self, tools: &Tools) -> Result<()> {
        // Off the list first: what is given back twice would be another container's.
        loop {
            let Some(held) = self.held().pop() else { break };
            match &held {
                Held::Image(source) => tools.images.release(source).await?,
                Held::Medium(serial) => tools.media.release(serial).await?,
                Held::Mount(place) => {
                    // What is below a mount that stays must not be removed.
                    unmount(place).inspect_err(|_| self.hold(held.clone()))?;
                }
            }
        }
        match fs::remove_dir_all(&self.own) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context(|| format!("removing {}", self.own.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes them after a failed creation.
    pub async fn give_up(&self, tools: &Tools) {
        if let Err(e) = self.remove(tools).await {
            tracing::warn!("after a failed creation: {e}");
        }
    }
}

/// Adds rules to those of the spec. One without any restricts nothing.
fn allow(spec: &mut Spec, rules: Vec<LinuxDeviceCgroup>) {
    let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(all) = resources.and_then(|resources| resources.devices_mut().as_mut()) {
        all.extend(rules);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_follow_those_of_the_spec() {
        let spec = json!({"ociVersion": "1.1.0", "linux": {"resources": {
            "devices": [{"allow": false, "access": "rwm"}]
        }}});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        let device = device::Device { block: true, major: 254, minor: 16 };
        allow(&mut spec, vec![device::rule(&device, "rw").unwrap()]);
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        let rules = resources.devices().clone().unwrap();
        assert_eq!((rules.len(), rules[1].allow(), rules[1].minor()), (2, true, Some(16)));
    }
}
