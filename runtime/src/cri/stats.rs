//! Figures of containers, as the agents of their guests tell them.

use std::collections::HashMap;

use husk_proto::{agent, cri};

use crate::error::Result;
use crate::guest;
use crate::node::{Container, Node, now_nanos};
use crate::store::Phase;

/// A figure in the CRI's form.
pub fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// Figures of one container; only its attributes when it does not run.
pub async fn container(node: &Node, container: &Container) -> Result<cri::ContainerStats> {
    Ok(with_processes(node, container).await?.0)
}

/// The figures, and the number of processes, for which they have no place.
async fn with_processes(node: &Node, container: &Container) -> Result<(cri::ContainerStats, u64)> {
    let record = container.record();
    let phase = record.phase();
    let config = record.config.unwrap_or_default();
    let attributes = cri::ContainerAttributes {
        id: container.id.clone(),
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
    };
    let mut stats = cri::ContainerStats { attributes: Some(attributes), ..Default::default() };
    if phase != Phase::Running {
        return Ok((stats, 0));
    }
    let mut agent = node.pod(&record.sandbox_id)?.live().await?.guest;
    let figures = agent
        .stats(guest::request(agent::StatsRequest { container_id: container.id.clone() }))
        .await
        .map_err(|status| guest::refusal("the guest tells no figures", status))?
        .into_inner();
    // The host's clock: rates are made of differences, and the guest's is the tenant's to set.
    let timestamp = now_nanos();
    stats.cpu = Some(cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(figures.cpu_usage_nanos),
        ..Default::default()
    });
    stats.memory = Some(cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(figures.memory_working_set_bytes),
        usage_bytes: value(figures.memory_usage_bytes),
        rss_bytes: value(figures.memory_rss_bytes),
        page_faults: value(figures.page_faults),
        major_page_faults: value(figures.major_page_faults),
        ..Default::default()
    });
    stats.writable_layer = Some(cri::FilesystemUsage {
        timestamp,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: node.config.root.display().to_string() }),
        used_bytes: value(figures.writable_bytes),
        inodes_used: value(figures.writable_inodes),
    });
    Ok((stats, figures.pids))
}

/// Figures of all the running containers that the filter lets through. A guest that does not answer costs
/// only its own pod's.
pub async fn list(node: &Node, filter: cri::ContainerStatsFilter) -> Vec<cri::ContainerStats> {
    list_with_processes(node, filter).await.0
}

/// As [`list`], with the number of processes of them all.
pub async fn list_with_processes(
    node: &Node,
    filter: cri::ContainerStatsFilter,
) -> (Vec<cri::ContainerStats>, u64) {
    let (mut all, mut processes) = (Vec::new(), 0u64);
    for each in node.containers() {
        let record = each.record();
        let labels: HashMap<String, String> =
            record.config.as_ref().map(|c| c.labels.clone()).unwrap_or_default();
        let wanted = record.phase() == Phase::Running
            && each.id.starts_with(&filter.id)
            && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
            && super::runtime::selected(&labels, &filter.label_selector);
        if !wanted {
            continue;
        }
        match with_processes(node, &each).await {
            Ok((stats, of_it)) => {
                all.push(stats);
                // The guest's word, which may be any.
                processes = processes.saturating_add(of_it);
            }
            Err(e) => tracing::warn!(container = each.id, "{e}"),
        }
    }
    (all, processes)
}
