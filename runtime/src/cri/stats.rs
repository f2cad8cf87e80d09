//! Figures of containers in the CRI's form.

use std::path::Path;
use std::sync::Arc;

use husk_proto::{agent, cri};

use super::list::selected;
use crate::error::Result;
use crate::figures::{self, ContainerFigures};
use crate::node::{Container, Node};
use crate::store::ContainerRecord;

/// A figure in the CRI's form.
pub fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// Figures of one container; only its attributes when it does not run.
pub async fn container(node: &Node, container: &Container) -> Result<cri::ContainerStats> {
    match figures::of_container(node, container).await? {
        Some(figures) => Ok(of(&node.config.root, figures)),
        None => {
            Ok(cri::ContainerStats { attributes: Some(attributes(container.record())), ..Default::default() })
        }
    }
}

/// Figures of all the running containers that the filter lets through. A guest that does not answer costs
/// only its own pod's.
pub async fn list(node: &Arc<Node>, filter: Option<cri::ContainerStatsFilter>) -> Vec<cri::ContainerStats> {
    let filter = filter.unwrap_or_default();
    let wanted = |record: &ContainerRecord| {
        let labels = record.config.as_ref().map(|config| &config.labels);
        record.id.starts_with(&filter.id)
            && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
            && labels.is_some_and(|labels| selected(labels, &filter.label_selector))
    };
    let all = figures::of_containers(node, wanted).await;
    all.into_iter().map(|figures| of(&node.config.root, figures)).collect()
}

/// What a guest told, in the CRI's form; its writable layer is below `root`.
pub fn of(root: &Path, figures: ContainerFigures) -> cri::ContainerStats {
    let ContainerFigures { record, at: timestamp, told } = figures;
    let limit = record.config.as_ref().and_then(|config| config.linux.as_ref()?.resources.as_ref());
    let limit = limit.map_or(0, |resources| resources.memory_limit_in_bytes.max(0) as u64);
    cri::ContainerStats {
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(told.cpu_usage_nanos),
            usage_nano_cores: None,
            psi: told.cpu_pressure.map(pressure),
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(told.memory_working_set_bytes),
            available_bytes: (limit > 0)
                .then(|| cri::UInt64Value { value: limit.saturating_sub(told.memory_working_set_bytes) }),
            usage_bytes: value(told.memory_usage_bytes),
            rss_bytes: value(told.memory_rss_bytes),
            page_faults: value(told.page_faults),
            major_page_faults: value(told.major_page_faults),
            psi: told.memory_pressure.map(pressure),
        }),
        writable_layer: Some(cri::FilesystemUsage {
            timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: root.display().to_string() }),
            used_bytes: value(told.writable_bytes),
            inodes_used: value(told.writable_inodes),
        }),
        swap: told.memory_swap_bytes.map(|bytes| cri::SwapUsage {
            timestamp,
            swap_available_bytes: None,
            swap_usage_bytes: value(bytes),
        }),
        io: told.io_pressure.map(|told| cri::IoUsage { timestamp, psi: Some(pressure(told)) }),
        attributes: Some(attributes(record)),
    }
}

fn attributes(record: ContainerRecord) -> cri::ContainerAttributes {
    let config = record.config.unwrap_or_default();
    cri::ContainerAttributes {
        id: record.id,
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
    }
}

fn pressure(told: agent::Pressure) -> cri::PsiStats {
    let share = |told: agent::PressureShare| cri::PsiData {
        total: told.total_nanos,
        avg10: told.avg10,
        avg60: told.avg60,
        avg300: told.avg300,
    };
    cri::PsiStats { full: told.full.map(share), some: told.some.map(share) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::hostile;

    #[test]
    fn a_guests_word_may_be_any() {
        let resources = cri::LinuxContainerResources { memory_limit_in_bytes: 4096, ..Default::default() };
        let linux = cri::LinuxContainerConfig { resources: Some(resources), ..Default::default() };
        let config = Some(cri::ContainerConfig { linux: Some(linux), ..Default::default() });
        let record = ContainerRecord { config, ..Default::default() };
        let stats = of(Path::new("/"), ContainerFigures::new(record, hostile::answer()));
        let (cpu, memory) = (stats.cpu.unwrap(), stats.memory.unwrap());
        assert!(cpu.timestamp > 0, "the host's clock, not the guest's");
        assert_eq!(memory.available_bytes, value(0));
        assert_eq!(memory.usage_bytes, value(u64::MAX));
        for pressure in [cpu.psi, memory.psi, stats.io.and_then(|io| io.psi)] {
            let share = pressure.and_then(|pressure| pressure.some).unwrap();
            assert!(
                [share.avg10, share.avg60, share.avg300]
                    .iter()
                    .all(|average| (0.0..=100.0).contains(average))
            );
        }
    }
}
