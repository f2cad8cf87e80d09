//! Figures of pods in the CRI's form: what they cost the host, and what their containers use inside.

use std::path::Path;
use std::sync::Arc;

use husk_proto::cri;

use super::list::selected;
use super::stats::{self, value};
use crate::error::Result;
use crate::figures::{self, PodFigures};
use crate::network::InterfaceCounters;
use crate::node::{Node, Pod};
use crate::store::SandboxRecord;

/// Figures of one pod; only its attributes when it is not ready.
pub async fn pod(node: &Node, pod: &Pod) -> Result<cri::PodSandboxStats> {
    if pod.live().await.is_err() {
        let attributes = Some(attributes(pod.record()));
        return Ok(cri::PodSandboxStats { attributes, ..Default::default() });
    }
    Ok(of(&node.config.root, figures::of_pod(node, pod).await?))
}

/// Figures of all the ready pods that the filter lets through. A pod that cannot be asked costs only its own.
pub async fn list(node: &Arc<Node>, filter: Option<cri::PodSandboxStatsFilter>) -> Vec<cri::PodSandboxStats> {
    let filter = filter.unwrap_or_default();
    let wanted = |record: &SandboxRecord| {
        let labels = record.config.as_ref().map(|config| &config.labels);
        record.id.starts_with(&filter.id)
            && labels.is_some_and(|labels| selected(labels, &filter.label_selector))
    };
    figures::of_pods(node, wanted).await.into_iter().map(|figures| of(&node.config.root, figures)).collect()
}

fn of(root: &Path, figures: PodFigures) -> cri::PodSandboxStats {
    let PodFigures { record, at: timestamp, cost, interfaces, containers, complete, .. } = figures;
    // The guests' words, which may be any.
    let processes = containers
        .iter()
        .fold(0u64, |sum, figures| sum.saturating_add(figures.told.processes.unwrap_or(figures.told.pids)));
    let memory = cost.memory;
    let mut interfaces = interfaces.into_iter().map(interface);
    let default_interface = interfaces.next();
    cri::PodSandboxStats {
        attributes: Some(attributes(record)),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: Some(cri::CpuUsage {
                timestamp,
                usage_core_nano_seconds: value(cost.cpu.total_nanos),
                ..Default::default()
            }),
            memory: Some(cri::MemoryUsage {
                timestamp,
                working_set_bytes: value(memory.working_set),
                usage_bytes: value(memory.usage),
                rss_bytes: value(memory.resident),
                page_faults: value(memory.faults),
                major_page_faults: value(memory.major_faults),
                ..Default::default()
            }),
            network: default_interface.map(|default| cri::NetworkUsage {
                timestamp,
                default_interface: Some(default),
                interfaces: interfaces.collect(),
            }),
            process: complete.then_some(cri::ProcessUsage { timestamp, process_count: value(processes) }),
            containers: containers.into_iter().map(|figures| stats::of(root, figures)).collect(),
            io: None,
        }),
        windows: None,
    }
}

fn interface(counters: InterfaceCounters) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: counters.name,
        rx_bytes: value(counters.rx_bytes),
        rx_errors: value(counters.rx_errors),
        tx_bytes: value(counters.tx_bytes),
        tx_errors: value(counters.tx_errors),
    }
}

fn attributes(record: SandboxRecord) -> cri::PodSandboxAttributes {
    let config = record.config.unwrap_or_default();
    cri::PodSandboxAttributes {
        id: record.id,
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{ContainerFigures, Cost, hostile};
    use crate::store::ContainerRecord;

    #[test]
    fn what_guests_say_adds_up_to_no_overflow() {
        let container = ContainerFigures::new(ContainerRecord::default(), hostile::answer());
        let figures = PodFigures {
            record: SandboxRecord::default(),
            at: 1,
            cost: Cost::default(),
            statistics: Default::default(),
            interfaces: Vec::new(),
            containers: vec![container; 3],
            complete: true,
        };
        let linux = of(Path::new("/"), figures).linux.unwrap();
        assert_eq!(linux.process.and_then(|process| process.process_count), value(u64::MAX));
        assert_eq!(linux.containers.len(), 3);
        assert_eq!(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds), value(0), "the host's own figure");
    }
}
