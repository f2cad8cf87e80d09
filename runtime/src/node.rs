//! What the whole daemon shares: its parts, and its pods and containers by id.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use husk_images::ImageStore;
use tokio::sync::{RwLock, watch};

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::container::{ExecRoom, Logger};
use crate::error::{Error, Result};
use crate::events::{Event, Events, Kind};
use crate::guest::Guest;
use crate::network::PodNetwork;
use crate::observe::Metrics;
use crate::sandbox::Size;
use crate::store::{ContainerRecord, Phase, SandboxRecord, Store};
use crate::template::Templates;
use crate::vm::{ScratchTemplate, Slots, Vm};
use crate::volume::Volumes;

/// The node's runtime.
pub struct Node {
    /// As configured.
    pub config: Config,
    /// Records.
    pub store: Store,
    /// Images.
    pub images: ImageStore,
    /// CNI; None: pods have no network (`husk run --network none`).
    pub network: Option<PodNetwork>,
    /// The empty scratch disk.
    pub scratch: ScratchTemplate,
    /// Of which pods' VMs are clones.
    pub templates: Templates,
    /// What becomes of pods and containers.
    pub events: Events,
    /// Where pods' cgroups are made.
    pub cgroups: Cgroups,
    /// What has been done.
    pub metrics: Metrics,
    /// For what commands print.
    pub exec_room: ExecRoom,
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

/// One pod.
pub struct Pod {
    /// Its id.
    pub id: String,
    record: Mutex<SandboxRecord>,
    /// Held through an operation that changes the pod; a read needs only the record.
    pub changing: tokio::sync::Mutex<()>,
    /// The VM's process, from its start on.
    pub vm: Mutex<Option<Arc<Vm>>>,
    /// The VM and its agent, once the pod is ready.
    pub live: RwLock<Option<Live>>,
}

/// What a ready pod has.
#[derive(Clone)]
pub struct Live {
    /// Its VM.
    pub vm: Arc<Vm>,
    /// Its agent.
    pub guest: Guest,
    /// Its block slots; held while one is filled or emptied, so that who finds an image in a slot finds it
    /// attached.
    pub slots: Arc<tokio::sync::Mutex<Slots>>,
    /// Its volumes; held while they change.
    pub volumes: Arc<tokio::sync::Mutex<Volumes>>,
    /// How large its VM has been told to be; held while that changes. None: by an earlier daemon, who may not have
    /// come to write it down.
    pub size: Arc<tokio::sync::Mutex<Option<Size>>>,
}

/// One container.
pub struct Container {
    /// Its id.
    pub id: String,
    record: Mutex<ContainerRecord>,
    /// Held while the record changes and that is told, so that steps are told in their order.
    stepping: Mutex<()>,
    /// Held through an operation that changes the container.
    pub changing: tokio::sync::Mutex<()>,
    /// Its log's writer, while it has output.
    pub logger: Mutex<Option<Logger>>,
    exited: watch::Sender<bool>,
}

impl Node {
    /// Puts the parts together.
    pub fn new(
        config: Config,
        store: Store,
        images: ImageStore,
        network: Option<PodNetwork>,
        scratch: ScratchTemplate,
        cgroups: Cgroups,
    ) -> Arc<Node> {
        let (pods, containers) = (Mutex::default(), Mutex::default());
        let templates = Templates::new(&config, cgroups.clone());
        Arc::new(Node {
            templates,
            config,
            store,
            images,
            network,
            scratch,
            cgroups,
            metrics: Metrics::default(),
            events: Events::default(),
            exec_room: ExecRoom::new(),
            pods,
            containers,
        })
    }

    /// Where a pod's sockets, configuration and console are.
    pub fn pod_dir(&self, id: &str) -> PathBuf {
        self.config.pod_dir(id)
    }

    /// How far a container's log has come.
    pub fn log_journal(&self, sandbox_id: &str, container_id: &str) -> PathBuf {
        self.pod_dir(sandbox_id).join(format!("{container_id}.log-journal"))
    }

    /// A pod's scratch disk.
    pub fn scratch_path(&self, id: &str) -> PathBuf {
        self.config.root.join("scratch").join(id)
    }

    /// What all pods' scratch disks take on disk: bytes of allocated blocks, and files.
    pub fn scratch_usage(&self) -> Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let dir = self.config.root.join("scratch");
        let entries = std::fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))?;
        // A disk that is removed meanwhile takes nothing.
        let disks = entries.flatten().filter_map(|entry| entry.metadata().ok());
        Ok(disks.fold((0, 0), |(bytes, files), disk| (bytes + disk.blocks() * 512, files + 1)))
    }

    /// All pods.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.pods).values().cloned().collect()
    }

    /// All containers.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    /// The pod with this id or the only one whose id begins so.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        find(&lock(&self.pods), id).ok_or_else(|| Error::no_sandbox(id))
    }

    /// The container with this id or the only one whose id begins so.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&lock(&self.containers), id).ok_or_else(|| Error::no_container(id))
    }

    /// The containers of a pod.
    pub fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        self.containers().into_iter().filter(|c| c.seen(|record| record.sandbox_id == sandbox_id)).collect()
    }

    /// Adds a pod. `settle` refuses one that cannot be beside the others, or gives it what none of them has; all of it
    /// under one lock.
    pub fn add_pod(
        &self,
        mut record: SandboxRecord,
        settle: impl FnOnce(&mut SandboxRecord, &[SandboxRecord]) -> Result<()>,
    ) -> Result<Arc<Pod>> {
        let mut pods = lock(&self.pods);
        let others: Vec<_> = pods.values().map(|pod| pod.record()).collect();
        settle(&mut record, &others)?;
        self.store.add_sandbox(&record)?;
        let pod = Arc::new(Pod::new(record));
        pods.insert(pod.id.clone(), pod.clone());
        Ok(pod)
    }

    /// Takes the pods and containers that the store has: they were beside each other before.
    pub fn take_recorded(&self, pods: Vec<SandboxRecord>, containers: Vec<ContainerRecord>) {
        let pods = pods.into_iter().map(|record| (record.id.clone(), Arc::new(Pod::new(record))));
        lock(&self.pods).extend(pods);
        let containers =
            containers.into_iter().map(|record| (record.id.clone(), Arc::new(Container::new(record))));
        lock(&self.containers).extend(containers);
    }

    /// Adds a container unless it cannot be beside one of the others, as `beside` says; both under one lock.
    pub fn add_container(
        &self,
        record: ContainerRecord,
        beside: impl Fn(&ContainerRecord) -> Result<()>,
    ) -> Result<Arc<Container>> {
        let mut containers = lock(&self.containers);
        containers.values().try_for_each(|other| other.seen(&beside))?;
        self.store.add_container(&record)?;
        let container = Arc::new(Container::new(record));
        containers.insert(container.id.clone(), container.clone());
        Ok(container)
    }

    /// Forgets a pod and its containers, and tells of these.
    pub fn forget_pod(&self, id: &str) -> Result<()> {
        let containers = self.containers_of(id);
        let ids: Vec<&str> = containers.iter().map(|container| container.id.as_str()).collect();
        self.store.delete_sandbox(id, &ids)?;
        containers.iter().for_each(|container| self.forgotten(&container.id));
        lock(&self.pods).remove(id);
        Ok(())
    }

    /// Forgets a container, and tells of it.
    pub fn forget_container(&self, id: &str) -> Result<()> {
        self.store.delete_container(id)?;
        self.forgotten(id);
        Ok(())
    }

    /// Takes a container that the store has forgotten out of the lists, and tells of it unless it was never made.
    fn forgotten(&self, id: &str) {
        let container = lock(&self.containers).remove(id);
        if let Some(container) =
            container.filter(|container| container.seen(ContainerRecord::phase) != Phase::Creating)
        {
            self.tell_of_container(&container, Kind::Deleted);
        }
    }

    /// Tells who listens what became of a pod.
    pub fn tell_of_pod(&self, pod: &Pod, kind: Kind) {
        self.tell(kind, &pod.id, &pod.id, || Some(pod.record()));
    }

    fn tell_of_container(&self, container: &Container, kind: Kind) {
        let sandbox_id = container.record().sandbox_id;
        self.tell(kind, &container.id, &sandbox_id, || Some(self.pod(&sandbox_id).ok()?.record()));
    }

    fn tell(&self, kind: Kind, id: &str, sandbox_id: &str, sandbox: impl FnOnce() -> Option<SandboxRecord>) {
        self.events.tell(|| Event {
            id: id.into(),
            kind,
            at: now_nanos(),
            sandbox: sandbox(),
            containers: self.containers_of(sandbox_id).iter().map(|container| container.record()).collect(),
        });
    }

    /// Changes a pod's record, on disk first.
    pub fn update_pod(&self, pod: &Pod, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut record = lock(&pod.record);
        let mut changed = record.clone();
        change(&mut changed);
        self.store.change_sandbox(&changed)?;
        *record = changed;
        Ok(())
    }

    /// Changes a container's record, on disk first, and tells of a step to another phase.
    pub fn update_container(
        &self,
        container: &Container,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<()> {
        let _stepping = lock(&container.stepping);
        let mut record = lock(&container.record);
        let mut changed = record.clone();
        change(&mut changed);
        self.store.change_container(&changed)?;
        let stopped = changed.phase() >= Phase::Stopped;
        let happened = Kind::of_step(record.phase(), changed.phase());
        *record = changed;
        drop(record);
        if let Some(kind) = happened {
            self.tell_of_container(container, kind);
        }
        if stopped {
            container.exited.send_replace(true);
        }
        Ok(())
    }
}

impl Pod {
    fn new(record: SandboxRecord) -> Pod {
        Pod {
            id: record.id.clone(),
            record: Mutex::new(record),
            changing: tokio::sync::Mutex::new(()),
            vm: Mutex::new(None),
            live: RwLock::new(None),
        }
    }

    /// A copy of its record.
    pub fn record(&self) -> SandboxRecord {
        lock(&self.record).clone()
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        lock(&self.record).phase()
    }

    /// The VM and its agent; an error when the pod is not ready.
    pub async fn live(&self) -> Result<Live> {
        match (&*self.live.read().await, self.record().phase()) {
            (Some(live), Phase::Running) => Ok(live.clone()),
            _ => Err(Error::State(format!("sandbox {} is not ready", self.id))),
        }
    }
}

impl Container {
    fn new(record: ContainerRecord) -> Container {
        Container {
            id: record.id.clone(),
            exited: watch::Sender::new(record.phase() >= Phase::Stopped),
            record: Mutex::new(record),
            stepping: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            logger: Mutex::new(None),
        }
    }

    /// A copy of its record.
    pub fn record(&self) -> ContainerRecord {
        lock(&self.record).clone()
    }

    /// What `look` sees in its record; for thousands of containers, that is less than a copy of each.
    pub fn seen<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&lock(&self.record))
    }

    /// Returns when the container is known to have exited.
    pub async fn exited(&self) {
        let mut exited = self.exited.subscribe();
        let _ = exited.wait_for(|exited| *exited).await;
    }
}

/// A lock whose holder panicked still guards sound data: records are replaced whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(found.clone());
    }
    if id.is_empty() {
        return None;
    }
    let mut matches = map.iter().filter(|(key, _)| key.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, found)), None) => Some(found.clone()),
        _ => None,
    }
}

/// A new id: 64 hexadecimal digits, as other runtimes'.
pub fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// Now, nanoseconds since the Unix epoch.
pub fn now_nanos() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}
