//! Figures of pods: what the VM costs the host, and what its containers use inside.

use husk_proto::cri;

use super::stats::{self, value};
use crate::cgroup::Memory;
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
    let (cpu_nanos, memory) = host_usage(node, pod, live.vm.usage()?);
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
            working_set_bytes: value(memory.working_set),
            usage_bytes: value(memory.usage),
            rss_bytes: value(memory.resident),
            page_faults: value(memory.faults),
            major_page_faults: value(memory.major_faults),
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

/// CPU time in nanoseconds and memory: of the pod's cgroup, which has all that serves the pod; where it has none, or
/// nothing counts there, of the VMM alone.
fn host_usage(node: &Node, pod: &Pod, vmm: Usage) -> (u64, Memory) {
    let figures = node.cgroups.figures(&node.pod_dir(&pod.id));
    let memory = figures.memory.unwrap_or(Memory {
        usage: vmm.resident_bytes,
        working_set: vmm.resident_bytes,
        resident: vmm.resident_bytes,
        faults: vmm.minor_faults + vmm.major_faults,
        major_faults: vmm.major_faults,
    });
    (figures.cpu_nanos.unwrap_or(vmm.cpu_nanos), memory)
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
