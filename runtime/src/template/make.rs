//! A template is made: a guest boots, comes to rest, and is saved.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use husk_failpoint::reach;
use husk_vmm::config::HotplugConfig;
use rustix::fs::{FlockOperation, flock};

use super::{Class, HALF_MADE, Templates, end, entries, files, remove, sync, used};
use crate::cgroup::CgroupPath;
use crate::config::VmDefaults;
use crate::error::{Error, Result};
use crate::observe::Metrics;
use crate::vm::{Vm, VmNet, VmSpec, template_user};

/// What a guest still does after it is ready, and would otherwise be done again by each clone.
const REST: Duration = Duration::from_millis(500);
/// A guest that is not idle yet is asked again.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// A template that a pod has used so lately is worth more than a new one: with more kinds of pods in turn than there may
/// be templates, each pod would make one and use none.
const LATELY: Duration = Duration::from_secs(600);

impl Templates {
    /// Makes the template of a class, unless it is there, or another one is being made.
    pub async fn make(&self, class: &Class, vm: &VmDefaults, metrics: &Metrics) {
        if !vm.clones() || self.find(class, vm).is_some() {
            return;
        }
        match self.try_make(class, vm).await {
            Ok(true) => {
                metrics.made_template(true);
                tracing::info!(class = class.name(), "a template was made; further pods are its clones");
            }
            Ok(false) => {}
            Err(e) => {
                metrics.made_template(false);
                tracing::warn!(class = class.name(), "no template could be made, pods boot: {e}");
            }
        }
    }

    async fn try_make(&self, class: &Class, vm: &VmDefaults) -> Result<bool> {
        make_dir(&self.root)?;
        let lock_path = self.root.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|e| Error::io("open", &lock_path, e))?;
        // Held until it is closed. Who has it makes one, and the next pod of this class asks again.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || self.find(class, vm).is_some() {
            return Ok(false);
        }
        let place = self.place(class, vm)?;
        if !self.make_room(vm.max_templates - 1)? {
            tracing::info!(
                class = class.name(),
                "no template is made, all {} were used lately; vm.max_templates allows for more",
                vm.max_templates
            );
            return Ok(false);
        }
        let half_made = place.with_extension(HALF_MADE);
        let run = self.run.join(format!("template-{}", class.name()));
        for dir in [&half_made, &run] {
            remove(dir)?;
            make_dir(dir)?;
        }
        reach(format_args!("made a template's directories"));
        let saved = self.boot_and_save(class, vm, &run, &half_made).await;
        end(&self.cgroups, &run).await?;
        reach(format_args!("removed what a template's VM had"));
        if let Err(e) = saved {
            remove(&half_made)?;
            return Err(e);
        }
        // A kernel, agent or monitor that was replaced meanwhile may be in it, or may not.
        if self.place(class, vm)? != place {
            remove(&half_made)?;
            return Err(Error::Unavailable("the guest's files were replaced meanwhile".into()));
        }
        sync(&half_made)?;
        remove(&place)?;
        std::fs::rename(&half_made, &place).map_err(|e| Error::io("rename", &half_made, e))?;
        reach(format_args!("published a template"));
        if let Some(build) = place.parent() {
            sync(build)?;
        }
        crate::node::lock(&self.trusted).insert(place);
        Ok(true)
    }

    async fn boot_and_save(&self, class: &Class, vm: &VmDefaults, run: &Path, to: &Path) -> Result<()> {
        let id = run.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(path) = CgroupPath::of_pod("", &self.parent_cgroup, id)? {
            self.cgroups.make(run, &path)?;
        }
        // No clone keeps these: it is given its own.
        let nets: Vec<VmNet> =
            (0..class.nets).map(|number| VmNet::new(number, Vec::new(), class.net_queues)).collect();
        let spec = VmSpec {
            id,
            dir: run,
            uid: template_user(vm.uid_range)?,
            network: None,
            vcpus: 1,
            max_vcpus: class.max_vcpus,
            boot_mib: class.boot_mib,
            hotplug: HotplugConfig { limit_mib: class.hotplug_mib, requested_mib: 0 },
            nets: &nets,
            door: self.cgroups.door(run)?,
            restore: None,
            savable: true,
        };
        let started = Vm::start(vm, spec)?;
        reach(format_args!("started a template's VM"));
        let saved = async {
            started.ready(vm).await?;
            tokio::time::sleep(REST).await;
            save(&started, to).await?;
            reach(format_args!("saved a template"));
            Ok(())
        }
        .await;
        started.stop().await;
        reach(format_args!("ended a template's VM"));
        saved
    }

    /// Removes templates, those whose last use is longest ago first, until there are no more than `most`. False: there
    /// are more, used lately.
    pub(super) fn make_room(&self, most: usize) -> Result<bool> {
        let mut places: Vec<PathBuf> = entries(&self.root).iter().flat_map(|build| entries(build)).collect();
        places.retain(|place| place.extension().is_none_or(|extension| extension != HALF_MADE));
        places.sort_by_key(|place| used(place));
        for place in places.iter().take(places.len().saturating_sub(most)) {
            let lately = SystemTime::now().checked_sub(LATELY);
            if lately.zip(used(place)).is_none_or(|(lately, used)| used > lately) {
                return Ok(false);
            }
            remove(place)?;
            reach(format_args!("removed a template to make room"));
        }
        Ok(true)
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

fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))
}
