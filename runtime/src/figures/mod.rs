//! Figures of pods and containers: what a pod costs the host, and what its guest tells of its containers.
//!
//! Pods are asked side by side, each within one limit of time: a guest that hangs delays nobody else's figures.

mod cost;
#[cfg(test)]
pub mod hostile;
#[cfg(test)]
mod tests;
mod told;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use husk_proto::agent;
use husk_vmm::control::Statistics;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

pub use self::cost::Cost;
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::network::InterfaceCounters;
use crate::node::{Container, Node, Pod, now_nanos};
use crate::store::{ContainerRecord, Phase, SandboxRecord};
use crate::vm::Vm;

/// How long a pod has to tell its figures; who scrapes a node waits ten seconds as a rule.
const LIMIT: Duration = Duration::from_secs(8);

/// The most pods that are asked at once.
const PODS_AT_ONCE: usize = 32;

/// The most containers of a pod that its guest is asked for at once.
const CONTAINERS_AT_ONCE: usize = 8;

/// Figures of a running container, as its guest tells them.
#[derive(Clone, Debug)]
pub struct ContainerFigures {
    /// The container.
    pub record: ContainerRecord,
    /// When, by the host's clock: rates are made of differences, and the guest's is the tenant's to set. Nanoseconds
    /// since the Unix epoch.
    pub at: i64,
    /// The guest's word, within bounds but else any.
    pub told: agent::StatsResponse,
}

impl ContainerFigures {
    /// Of an answer that has come just now.
    pub fn new(record: ContainerRecord, told: agent::StatsResponse) -> ContainerFigures {
        ContainerFigures { record, at: now_nanos(), told: told::believed(told) }
    }
}

/// Figures of a ready pod, as the host sees them.
#[derive(Clone, Debug)]
pub struct PodFigures {
    /// The pod.
    pub record: SandboxRecord,
    /// When, nanoseconds since the Unix epoch.
    pub at: i64,
    /// What it costs the host.
    pub cost: Cost,
    /// The VMM's counters.
    pub statistics: Statistics,
    /// The first is the pod's default one; none when they cannot be read or there is no network.
    pub interfaces: Vec<InterfaceCounters>,
    /// Of those running containers that the guest told of in time.
    pub containers: Vec<ContainerFigures>,
    /// Whether these are all.
    pub complete: bool,
}

/// Figures of one container; None when it does not run.
pub async fn of_container(node: &Node, container: &Container) -> Result<Option<ContainerFigures>> {
    let record = container.record();
    if record.phase() != Phase::Running {
        return Ok(None);
    }
    let guest = node.pod(&record.sandbox_id)?.live().await?.guest;
    ask(guest, record, Instant::now() + LIMIT).await.map(Some)
}

/// Figures of all the running containers that `wanted` lets through and whose guests tell them in time.
pub async fn of_containers(
    node: &Arc<Node>,
    wanted: impl Fn(&ContainerRecord) -> bool,
) -> Vec<ContainerFigures> {
    let mut by_pod: HashMap<String, Vec<ContainerRecord>> = HashMap::new();
    for record in node.containers().iter().map(|container| container.record()) {
        if record.phase() == Phase::Running && wanted(&record) {
            by_pod.entry(record.sandbox_id.clone()).or_default().push(record);
        }
    }
    let asked = by_pod.into_iter().map(|(sandbox, records)| {
        let node = node.clone();
        async move {
            match node.pod(&sandbox) {
                Ok(pod) => of_guest(&pod, records, Instant::now() + LIMIT).await,
                Err(_) => Vec::new(),
            }
        }
    });
    let told: Vec<_> = stream::iter(asked).buffer_unordered(PODS_AT_ONCE).collect().await;
    told.into_iter().flatten().collect()
}

/// Figures of one pod.
///
/// # Errors
/// When it is not ready, or its VMM does not answer.
pub async fn of_pod(node: &Node, pod: &Pod) -> Result<PodFigures> {
    let deadline = Instant::now() + LIMIT;
    let live = pod.live().await?;
    let containers = node.containers_of(&pod.id);
    let running: Vec<ContainerRecord> = containers
        .iter()
        .map(|container| container.record())
        .filter(|c| c.phase() == Phase::Running)
        .collect();
    let count = running.len();
    let (cost, statistics, interfaces, containers) = tokio::join!(
        cost(node, pod, live.vm.clone()),
        timeout_at(deadline, live.vm.statistics()),
        timeout_at(deadline, interfaces(node, pod)),
        of_guest(pod, running, deadline)
    );
    let late = |_| Error::Deadline(format!("the VMM of sandbox {} did not answer in time", pod.id));
    Ok(PodFigures {
        record: pod.record(),
        at: now_nanos(),
        cost: cost?,
        statistics: statistics.map_err(late)??,
        interfaces: interfaces.unwrap_or_default(),
        complete: containers.len() == count,
        containers,
    })
}

/// Figures of all the ready pods that `wanted` lets through; one that cannot be asked costs only its own.
pub async fn of_pods(node: &Arc<Node>, wanted: impl Fn(&SandboxRecord) -> bool) -> Vec<PodFigures> {
    let pods = node.pods().into_iter().filter(|pod| {
        let record = pod.record();
        record.phase() == Phase::Running && wanted(&record)
    });
    let asked = pods.map(|pod| {
        let node = node.clone();
        async move {
            of_pod(&node, &pod)
                .await
                .inspect_err(|e| tracing::warn!(sandbox = pod.id, "no figures: {e}"))
                .ok()
        }
    });
    stream::iter(asked).buffer_unordered(PODS_AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Read from files of the kernel, some of which it takes time to add up.
async fn cost(node: &Node, pod: &Pod, vm: Arc<Vm>) -> Result<Cost> {
    let (cgroups, dir) = (node.cgroups.clone(), node.pod_dir(&pod.id));
    let read = spawn_blocking(move || Ok(Cost::new(cgroups.figures(&dir), &vm.usage()?)));
    read.await.map_err(|e| Error::Internal(e.to_string()))?
}

/// A pod without a network has none; why one's cannot be read is for the log.
async fn interfaces(node: &Node, pod: &Pod) -> Vec<InterfaceCounters> {
    let Some(network) = &node.network else { return Vec::new() };
    let read = network.counters(&pod.id).await;
    read.inspect_err(|e| tracing::warn!(sandbox = pod.id, "no figures of the network: {e}"))
        .unwrap_or_default()
}

/// What a pod's guest tells of these containers until the deadline.
async fn of_guest(pod: &Pod, records: Vec<ContainerRecord>, deadline: Instant) -> Vec<ContainerFigures> {
    let Ok(live) = pod.live().await else { return Vec::new() };
    let asked = records.into_iter().map(|record| {
        let (guest, id) = (live.guest.clone(), record.id.clone());
        async move {
            let told = ask(guest, record, deadline).await;
            told.inspect_err(|e| tracing::warn!(container = id, "no figures: {e}")).ok()
        }
    });
    stream::iter(asked).buffer_unordered(CONTAINERS_AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn ask(guest: Guest, record: ContainerRecord, deadline: Instant) -> Result<ContainerFigures> {
    let mut guest = guest.max_decoding_message_size(told::MAX_ANSWER);
    let request = guest::request(agent::StatsRequest { container_id: record.id.clone() });
    match timeout_at(deadline, guest.stats(request)).await {
        Ok(Ok(answer)) => Ok(ContainerFigures::new(record, answer.into_inner())),
        Ok(Err(status)) => Err(guest::refusal("the guest tells no figures", status)),
        Err(_) => Err(Error::Deadline(format!("the guest told no figures within {} s", LIMIT.as_secs()))),
    }
}
