//! What a starting daemon does with what an earlier one left.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::{self, ProcessState};
use tracing::Instrument;

use super::{remove_pod_dir, tear_down};
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::{Live, Node, Pod, lock, now_nanos};
use crate::observe::about;
use crate::store::Phase;
use crate::vm::{Slots, Vm};
use crate::volume::Volumes;

/// How long a guest may take to answer a daemon that comes back, which serves nobody until then.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most containers that a guest is believed to have.
const MOST_CONTAINERS: usize = 4096;

impl Node {
    /// Takes the records and the living VMs in hand: ready pods go on, half-made and half-removed ones are
    /// swept, and so is whatever belongs to no record.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        let pods = self.store.sandboxes()?;
        let known: HashSet<&str> = pods.iter().map(|record| record.id.as_str()).collect();
        let (made, half): (Vec<_>, Vec<_>) = self.store.containers()?.into_iter().partition(|record| {
            known.contains(record.sandbox_id.as_str()) && record.phase() != Phase::Creating
        });
        for record in half {
            self.store.delete_container(&record.id)?;
        }
        self.take_recorded(pods, made);
        let mut recoveries = tokio::task::JoinSet::new();
        for pod in self.pods() {
            let node = self.clone();
            let span = about(&pod.id, "");
            let recovered = async move {
                if let Err(e) = node.recover_pod(&pod).await {
                    tracing::error!("cannot recover the pod: {e}");
                }
            };
            recoveries.spawn(recovered.instrument(span));
        }
        while recoveries.join_next().await.is_some() {}
        self.sweep().await;
        self.templates.sweep(&self.config).await;
        Ok(())
    }

    async fn recover_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let record = pod.record();
        let dir = self.pod_dir(&pod.id);
        let vm = Vm::adopt(&dir, record.vmm_pid, record.vmm_started).or_else(|| Vm::find(&dir)).map(Arc::new);
        *lock(&pod.vm) = vm.clone();
        match (record.phase(), vm) {
            (Phase::Running, Some(vm)) => match within(PATIENCE, self.reach(&vm)).await {
                Ok((agent, states)) => self.resume(pod, vm, agent, states).await,
                Err(e) => {
                    tracing::error!("the guest does not answer and is ended: {e}");
                    vm.stop().await;
                    self.lost(pod, "the guest did not answer when husk came back").await
                }
            },
            (Phase::Running, None) => self.lost(pod, "the pod's VM ended while husk was away").await,
            (Phase::Stopped, _) => tear_down(self, pod).await,
            _ => {
                tear_down(self, pod).await?;
                for container in self.containers_of(&pod.id) {
                    self.forget_container(&container.id)?;
                }
                self.forget_pod(&pod.id)
            }
        }
    }

    /// Connects to the agent of a VM that was running already and asks what it has.
    async fn reach(&self, vm: &Vm) -> Result<(Guest, HashMap<String, ProcessState>)> {
        let mut agent = guest::connect(&vm.vsock()).await?;
        let listed = guest::call(agent.list_containers(guest::request(agent::ListContainersRequest {})))
            .await
            .map_err(|status| guest::refusal("the guest does not list its containers", status))?;
        if listed.containers.len() > MOST_CONTAINERS {
            return Err(Error::Internal(format!(
                "the guest lists {} containers, more than the {MOST_CONTAINERS} that it can have",
                listed.containers.len()
            )));
        }
        let states = listed.containers.into_iter().map(|c| (c.id.clone(), c.state())).collect();
        Ok((agent, states))
    }

    /// A pod whose VM goes on: its containers' logs and ends are followed again, and what was half done to
    /// them is finished or undone.
    async fn resume(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        vm: Arc<Vm>,
        agent: Guest,
        states: HashMap<String, ProcessState>,
    ) -> Result<()> {
        let containers = self.containers_of(&pod.id);
        let known: HashSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
        for id in states.keys().filter(|id| !known.contains(id.as_str())) {
            let delete = agent::DeleteContainerRequest { id: id.clone() };
            if let Err(status) = guest::call(agent.clone().delete_container(guest::request(delete))).await {
                tracing::warn!("cannot delete a half-made container: {}", status.code());
                // It has just listed it: more of that would keep the daemon from its other pods.
                break;
            }
        }
        let mut slots = Slots::new(self.config.handler_of_pod(&pod.record().runtime_handler).block_slots);
        for container in &containers {
            let record = container.record();
            slots.restore(&record.image_id, record.slot as u8);
            for medium in &record.media {
                slots.restore(&medium.key(), medium.slot as u8);
            }
        }
        for slot in slots.empty() {
            // One that is empty in the VM too refuses: that is what is wanted.
            let _ = vm.detach(slot).await;
        }
        let slots = Arc::new(tokio::sync::Mutex::new(slots));
        let (volumes, end) = Volumes::found(&self.pod_dir(&pod.id));
        match end {
            Some(end) => self.watch_volumes(pod.clone(), vm.clone(), end),
            None if volumes.containers().is_empty() => {}
            None => self.volumes_lost(pod, "while husk was away"),
        }
        for id in volumes.containers().into_iter().filter(|id| !known.contains(id.as_str())) {
            volumes.remove(&id)?;
        }
        let volumes = Arc::new(tokio::sync::Mutex::new(volumes));
        *pod.live.write().await =
            Some(Live { vm: vm.clone(), guest: agent.clone(), slots, volumes, size: Default::default() });
        self.watch_agent(pod.clone(), vm.clone(), agent.clone());
        self.watch(pod.clone(), vm);
        for container in containers {
            let phase = container.record().phase();
            let started = states.get(&container.id).is_some_and(|state| *state != ProcessState::Created);
            if phase == Phase::Created && started {
                self.update_container(&container, |record| {
                    record.started_at = now_nanos();
                    record.phase = Phase::Running.into();
                })?;
            }
            match container.record().phase() {
                Phase::Running => self.follow(&container, agent.clone()).await?,
                Phase::Removing => self.remove_container(&container.id).await?,
                _ => {}
            }
        }
        if let Some(network) = &self.network
            && let Err(e) = network.check(&pod.id).await
        {
            tracing::warn!("the pod's network is not as it was set up: {e}");
        }
        tracing::info!("pod goes on");
        Ok(())
    }

    /// Removes what belongs to no record: VMMs, networks, cgroups, files.
    async fn sweep(&self) {
        let known: HashSet<String> = self.pods().iter().map(|pod| pod.id.clone()).collect();
        let pods = self.config.pods_dir();
        for id in names(&pods).into_iter().filter(|id| !known.contains(id)) {
            tracing::warn!(sandbox = id, "sweeping what belongs to no pod");
            if let Some(vm) = Vm::find(&pods.join(&id)) {
                vm.process.kill().await;
            }
            if let Err(e) = remove_pod_dir(&self.cgroups, &pods.join(&id)).await {
                tracing::error!(sandbox = id, "cannot be swept: {e}");
            }
        }
        let scratch = self.config.root.join("scratch");
        for id in names(&scratch).into_iter().filter(|id| !known.contains(id)) {
            let _ = std::fs::remove_file(scratch.join(id));
        }
        if let Some(network) = &self.network {
            let mut ids: HashSet<String> = network.known().unwrap_or_default().into_iter().collect();
            ids.extend(network.namespaces().unwrap_or_default());
            for id in ids.difference(&known) {
                if let Err(e) = network.teardown(id).await {
                    tracing::warn!(sandbox = id, "cannot release the network: {e}");
                }
            }
        }
    }
}

/// What comes of `work`, if it comes in time.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::Deadline(format!("it took longer than {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
