//! Figures of pods: what the VM costs the host, and what its containers use inside.

use husk_proto::cri;

use super::stats::{self, value};
use crate::error::Result;
use crate::node::{Node, Pod, now_nanos};
use crate::vm::Usage;

/// Figures of one pod; only its attributes when it is not ready.
pub async fn pod(node: &Node, pod: &Pod) -> Result<cri::PodSandboxStats> {
    let config = pod.record().config.unwrap_or_default();
    let attributes = cri::PodSandboxAttributes {
        id: pod.id.clone(),
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
    };
    let mut stats = cri::PodSandboxStats { attributes: Some(attributes), ..Default::default() };
    let Ok(live) = pod.live().await else { return Ok(stats) };
    let Usage { cpu_nanos, resident_bytes, minor_faults, major_faults } = live.vm.usage()?;
    let counters = live.vm.statistics().await?;
    let filter = cri::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let (containers, processes) = stats::list_with_processes(node, filter).await;
    let timestamp = now_nanos();
    // The VMM counts all interfaces together, and all but a few pods have one.
    let interface = cri::NetworkInterfaceUsage {
        name: "eth0".into(),
        rx_bytes: value(counters.net_rx_bytes),
        tx_bytes: value(counters.net_tx_bytes),
        rx_errors: value(counters.net_drops),
        tx_errors: value(0),
    };
    stats.linux = Some(cri::LinuxPodSandboxStats {
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(cpu_nanos),
            ..Default::default()
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(resident_bytes),
            usage_bytes: value(resident_bytes),
            rss_bytes: value(resident_bytes),
            page_faults: value(minor_faults + major_faults),
            major_page_faults: value(major_faults),
            ..Default::default()
        }),
        network: node.network.is_some().then(|| cri::NetworkUsage {
            timestamp,
            default_interface: Some(interface.clone()),
            interfaces: vec![interface],
        }),
        process: Some(cri::ProcessUsage { timestamp, process_count: value(processes) }),
        containers,
        ..Default::default()
    });
    Ok(stats)
}

/// Figures of all the ready pods that the filter lets through. A pod that cannot be asked costs only its own.
pub async fn list(node: &Node, filter: cri::PodSandboxStatsFilter) -> Vec<cri::PodSandboxStats> {
    let mut all = Vec::new();
    for each in node.pods() {
        let labels = each.record().config.unwrap_or_default().labels;
        let wanted =
            each.id.starts_with(&filter.id) && super::runtime::selected(&labels, &filter.label_selector);
        if !wanted || each.live().await.is_err() {
            continue;
        }
        match pod(node, &each).await {
            Ok(stats) => all.push(stats),
            Err(e) => tracing::warn!(sandbox = each.id, "{e}"),
        }
    }
    all
}
