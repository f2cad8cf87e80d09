//! What a starting daemon does with what an earlier one left.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::{self, ProcessState};
use tracing::Instrument;

use super::{remove_pod_dir, tear_down};
use crate::container::end_commands;
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::{Live, Node, Pod, lock, now_nanos};
use crate::observe::about;
use crate::store::Phase;
use crate::vm::{Slots, Vm};
use crate::volume::{End, Volumes};

/// How long a guest may take to answer a daemon that comes back, which serves nobody until then.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the record of a pod's end is waited for.
const RECORD_LIMIT: Duration = Duration::from_secs(2);
/// The most containers that a guest is believed to have.
const MOST_CONTAINERS: usize = 4096;
/// The most commands that a container is believed to have.
const MOST_COMMANDS: usize = 1024;

/// A VM that an earlier daemon has left.
struct Left {
    vm: Arc<Vm>,
    /// Of a ready pod.
    ready: Option<Result<Ready>>,
}

/// What a ready pod's guest answers, and what else it has.
struct Ready {
    agent: Guest,
    containers: Vec<agent::Container>,
    volumes: Volumes,
    /// Of what serves the volumes.
    end: Option<End>,
}

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
                let left = node.look_for(&pod).await?;
                if let Err(e) = node.recover_pod(&pod, left).await {
                    tracing::error!("cannot recover the pod: {e}");
                }
                Ok::<(), Error>(())
            };
            recoveries.spawn(recovered.instrument(span));
        }
        let mut seen: Result<()> = Ok(());
        while let Some(done) = recoveries.join_next().await {
            if let Ok(unseen @ Err(_)) = done {
                seen = unseen;
            }
        }
        // What this daemon cannot see may well live: it is not ended for that, nor swept.
        seen?;
        self.sweep().await;
        self.templates.sweep(&self.config).await;
        Ok(())
    }

    /// The VM of a pod, and whether its guest answers.
    ///
    /// # Errors
    /// When that cannot be known, for want of something that husk itself needs.
    async fn look_for(&self, pod: &Pod) -> Result<Option<Left>> {
        let record = pod.record();
        let dir = self.pod_dir(&pod.id);
        let adopted = Vm::adopt(&dir, record.vmm_pid, record.vmm_started)?;
        let found = if adopted.is_none() { Vm::find(&dir)? } else { adopted };
        let Some(vm) = found.map(Arc::new) else { return Ok(None) };
        if record.phase() != Phase::Running {
            return Ok(Some(Left { vm, ready: None }));
        }
        let (volumes, end) = Volumes::found(&dir)?;
        let agent = match within(PATIENCE, guest::connect(&vm.vsock())).await {
            Err(Error::Exhausted(why)) => return Err(Error::Exhausted(why)),
            connected => connected,
        };
        let ready = match agent {
            Ok(agent) => within(PATIENCE, list(agent.clone())).await.map(|containers| Ready {
                agent,
                containers,
                volumes,
                end,
            }),
            Err(e) => Err(e),
        };
        Ok(Some(Left { vm, ready: Some(ready) }))
    }

    async fn recover_pod(self: &Arc<Self>, pod: &Arc<Pod>, left: Option<Left>) -> Result<()> {
        *lock(&pod.vm) = left.as_ref().map(|left| left.vm.clone());
        match (pod.record().phase(), left) {
            (_, Some(Left { vm, ready: Some(ready) })) => match ready {
                Ok(ready) => self.resume(pod, vm, ready).await,
                Err(e) => {
                    tracing::error!("the guest does not answer and is ended: {e}");
                    vm.stop().await;
                    self.lost_meanwhile(pod, "the guest did not answer when husk came back").await;
                    Ok(())
                }
            },
            (Phase::Running, _) => {
                self.lost_meanwhile(pod, "the pod's VM ended while husk was away").await;
                Ok(())
            }
            (Phase::Stopped, _) => tear_down(self, pod).await,
            _ => {
                tear_down(self, pod).await?;
                self.forget_pod(&pod.id)
            }
        }
    }

    /// Records that a pod has no VM any more. A disk that does not take that does not keep the daemon from its other pods.
    async fn lost_meanwhile(self: &Arc<Self>, pod: &Arc<Pod>, why: &'static str) {
        let (node, pod) = (self.clone(), pod.clone());
        let recorded = tokio::spawn(async move { node.lost(&pod, why).await });
        let _ = tokio::time::timeout(RECORD_LIMIT, recorded).await;
    }

    /// A pod whose VM goes on: its containers' logs and ends are followed again, and what was half done to
    /// them is finished or undone.
    async fn resume(self: &Arc<Self>, pod: &Arc<Pod>, vm: Arc<Vm>, ready: Ready) -> Result<()> {
        let Ready { agent, containers: listed, volumes, end } = ready;
        let states: HashMap<String, ProcessState> =
            listed.iter().map(|container| (container.id.clone(), container.state())).collect();
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
        for container in listed.into_iter().filter(|container| known.contains(container.id.as_str())) {
            let commands = container.exec_ids.into_iter().take(MOST_COMMANDS);
            end_commands(agent.clone(), &container.id, commands.collect());
        }
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
                Phase::Running => self.follow(&container, agent.clone()).await,
                Phase::Removing => self.remove_container(&container.id).await?,
                _ => {}
            }
        }
        self.settle_resources(pod);
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
            let dir = pods.join(&id);
            let swept = async {
                if let Some(vm) = Vm::find(&dir)? {
                    vm.process.kill().await;
                }
                remove_pod_dir(&self.cgroups, &dir).await
            };
            if let Err(e) = swept.await {
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

/// What a guest says that it has.
async fn list(mut agent: Guest) -> Result<Vec<agent::Container>> {
    let listed = guest::call(agent.list_containers(guest::request(agent::ListContainersRequest {})))
        .await
        .map_err(|status| guest::refusal("the guest does not list its containers", status))?;
    if listed.containers.len() > MOST_CONTAINERS {
        return Err(Error::Internal(format!(
            "the guest lists {} containers, more than the {MOST_CONTAINERS} that it can have",
            listed.containers.len()
        )));
    }
    Ok(listed.containers)
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
