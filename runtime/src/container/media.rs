//! What a container has in block slots of its pod's VM: its image, the images that are its volumes, and devices.

use husk_vmm::config::slot_serial;

use super::device;
use crate::error::{Error, Result};
use crate::node::{Container, Live, Node};
use crate::store::{ContainerRecord, HostDevice, Medium};
use crate::vm::DiskPiece;

/// A medium in its slot, as the guest is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Of the slot's device.
    pub serial: String,
    /// Nobody may write.
    pub read_only: bool,
}

impl Node {
    /// One user more of each: the slot of the container's image, and its other media in their order. What was taken
    /// before a failure is for [`Self::release_media`].
    pub(super) async fn take_media(&self, live: &Live, container: &Container) -> Result<(u8, Vec<Attached>)> {
        let record = container.record();
        let open = || self.image_disk(&record.image_id);
        let note = |record: &mut ContainerRecord, slot| record.slot = slot;
        let image = self.take(live, container, &record.image_id, true, open, note).await?;
        let mut media = Vec::new();
        for (index, medium) in record.media.iter().enumerate() {
            let read_only = medium.device.as_ref().is_none_or(|device| !device.writable);
            let note = |record: &mut ContainerRecord, slot| {
                record.media.iter_mut().skip(index).take(1).for_each(|medium| medium.slot = slot);
            };
            let open = || self.open_medium(medium);
            let slot = self.take(live, container, &medium.key(), read_only, open, note).await?;
            media.push(Attached { serial: slot_serial(slot), read_only });
        }
        Ok((image, media))
    }

    /// One user more of what `key` names: its slot. It is opened and attached for the first.
    async fn take(
        &self,
        live: &Live,
        container: &Container,
        key: &str,
        read_only: bool,
        open: impl FnOnce() -> Result<Vec<DiskPiece>>,
        note: impl Fn(&mut ContainerRecord, u32),
    ) -> Result<u8> {
        let mut slots = live.slots.lock().await;
        let (slot, attach) = slots.take(key)?;
        let taken = async {
            self.update_container(container, |record| note(record, slot.into()))?;
            if attach { live.vm.attach(slot, read_only, open()?).await } else { Ok(()) }
        };
        if let Err(error) = taken.await {
            slots.release(key);
            self.update_container(container, |record| note(record, 0))?;
            return Err(error);
        }
        Ok(slot)
    }

    /// One user less of each.
    pub(super) async fn release_media(&self, live: &Live, container: &Container) {
        let record = container.record();
        let media = record.media.iter().map(|medium| (medium.key(), medium.slot));
        let mut slots = live.slots.lock().await;
        for (key, slot) in media.chain([(record.image_id.clone(), record.slot)]) {
            if slot != 0
                && let Some(slot) = slots.release(&key)
                && let Err(e) = live.vm.detach(slot).await
            {
                tracing::warn!(container = container.id, slot, "cannot detach {key}: {e}");
            }
        }
    }

    /// Whether a VM may have the devices of the pod's containers open.
    pub(super) fn has_vm(&self, sandbox_id: &str) -> bool {
        self.pod(sandbox_id).is_ok_and(|pod| crate::node::lock(&pod.vm).is_some())
    }

    /// An error if a container needs the image `id`.
    ///
    /// # Errors
    /// [`Error::State`], with the container.
    pub fn check_unused(&self, id: &str) -> Result<()> {
        match self.containers().iter().find(|container| container.record().images().any(|used| used == id)) {
            None => Ok(()),
            Some(user) => Err(Error::State(format!(
                "image {id} is kept: container {} uses it; remove the container first",
                user.id
            ))),
        }
    }

    fn open_medium(&self, medium: &Medium) -> Result<Vec<DiskPiece>> {
        match &medium.device {
            Some(device) => Ok(vec![open_device(device)?]),
            None => self.image_disk(&medium.image_id),
        }
    }

    /// The image's disk, its files opened.
    fn image_disk(&self, id: &str) -> Result<Vec<DiskPiece>> {
        let disk = self.images.disk(id)?;
        disk.extents
            .into_iter()
            .map(|extent| {
                let file =
                    std::fs::File::open(&extent.file).map_err(|e| Error::io("open", &extent.file, e))?;
                Ok(DiskPiece { file: file.into(), offset: extent.offset, length: extent.length })
            })
            .collect()
    }
}

fn open_device(device: &HostDevice) -> Result<DiskPiece> {
    let (file, length) = device::open(device)?;
    Ok(DiskPiece { file: file.into(), offset: 0, length })
}
