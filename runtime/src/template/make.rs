//! A template is made: a guest boots, comes to rest, and is saved.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use husk_vmm::config::HotplugConfig;
use rustix::fs::{FlockOperation, flock};

use super::{Class, HALF_MADE, MAX, Templates, entries, files, remove};
use crate::cgroup::Door;
use crate::error::{Error, Result};
use crate::vm::{Vm, VmNet, VmSpec, free_user};

/// What a guest still does after it is ready, and would otherwise be done again by each clone.
const REST: Duration = Duration::from_millis(500);
/// A guest that is not idle yet is asked again.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// The largest MTU: a guest's driver lets it be lowered from what it found, not raised.
const MTU: u16 = u16::MAX;

impl Templates {
    /// Makes the template of a class, unless it is there, or another one is being made. Its VMM becomes a user that is
    /// not `taken`.
    pub async fn make(&self, class: &Class, taken: &HashSet<u32>) {
        if !self.enabled || self.find(class).is_some() {
            return;
        }
        match self.try_make(class, taken).await {
            Ok(true) => {
                tracing::info!(class = class.name(), "a template was made; further pods are its clones")
            }
            Ok(false) => {}
            Err(e) => tracing::warn!(class = class.name(), "no template could be made, pods boot: {e}"),
        }
    }

    async fn try_make(&self, class: &Class, taken: &HashSet<u32>) -> Result<bool> {
        make_dir(&self.root)?;
        let lock_path = self.root.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|e| Error::io("open", &lock_path, e))?;
        // Held until it is closed. Who has it makes one, and the next pod of this class asks again.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || self.find(class).is_some() {
            return Ok(false);
        }
        let place = self.place(class)?;
        let half_made = place.with_extension(HALF_MADE);
        let run = self.run.join(class.name());
        for dir in [&half_made, &run] {
            remove(dir)?;
            make_dir(dir)?;
        }
        let uid = free_user(self.vm.uid_range, taken)?;
        let saved = self.boot_and_save(class, uid, &run, &half_made).await;
        remove(&run)?;
        if let Err(e) = saved {
            remove(&half_made)?;
            return Err(e);
        }
        // A kernel, agent or monitor that was replaced meanwhile may be in it, or may not.
        if self.place(class)? != place {
            remove(&half_made)?;
            return Err(Error::Unavailable("the guest's files were replaced meanwhile".into()));
        }
        sync(&half_made)?;
        remove(&place)?;
        std::fs::rename(&half_made, &place).map_err(|e| Error::io("rename", &half_made, e))?;
        if let Some(build) = place.parent() {
            sync(build)?;
            make_room(build, &place)?;
        }
        crate::node::lock(&self.trusted).insert(place);
        Ok(true)
    }

    async fn boot_and_save(&self, class: &Class, uid: u32, run: &Path, to: &Path) -> Result<()> {
        // No clone keeps these: it is given its own.
        let nets: Vec<VmNet> = (0..class.nets)
            .map(|index| VmNet { tap: None, mac: format!("02:00:00:00:00:{:02x}", index as u8), mtu: MTU })
            .collect();
        let spec = VmSpec {
            id: "template",
            dir: run,
            uid,
            network: None,
            vcpus: 1,
            max_vcpus: class.max_vcpus,
            boot_mib: class.boot_mib,
            hotplug: HotplugConfig { limit_mib: class.hotplug_mib, requested_mib: 0 },
            nets: &nets,
            door: Door::default(),
            restore: None,
            savable: true,
        };
        let vm = Vm::start(&self.vm, spec)?;
        let saved = async {
            vm.ready(&self.vm).await?;
            tokio::time::sleep(REST).await;
            save(&vm, to).await
        }
        .await;
        vm.stop().await;
        saved
    }
}

async fn save(vm: &Vm, to: &Path) -> Result<()> {
    let [state, memory] = files(to);
    let mut tries = 0;
    loop {
        let open = |path: &Path| -> Result<File> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            options.open(path).map_err(|e| Error::io("create", path, e))
        };
        match vm.snapshot(open(&state)?.into(), open(&memory)?.into()).await {
            Err(e) if tries == TRIES => return Err(e),
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(()) => return Ok(()),
        }
        tries += 1;
    }
}

/// Removes the oldest but `newest` when there are too many.
fn make_room(build: &Path, newest: &Path) -> Result<()> {
    let age = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let mut places = entries(build);
    places.retain(|place| place != newest);
    places.sort_by_key(|place| age(place));
    let excess = (places.len() + 1).saturating_sub(MAX);
    places.iter().take(excess).try_for_each(|place| remove(place))
}

fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", dir, e))
}
