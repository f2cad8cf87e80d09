//! ListMetricDescriptors and ListPodSandboxMetrics: what kubelet serves as /metrics/cadvisor.

mod metric;
mod table;

use std::sync::Arc;

use husk_proto::cri;

use self::metric::Sample;
use self::table::TABLE;
use crate::figures::{self, ContainerFigures, PodFigures};
use crate::node::Node;
use crate::store::{ContainerRecord, SandboxRecord};

/// The labels that every metric has.
const LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// What the label "container" says of the pod itself, as with other runtimes.
const POD: &str = "POD";

/// All metrics there are, by name.
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    let descriptors = TABLE.iter().map(|metric| cri::MetricDescriptor {
        name: metric.name.into(),
        help: metric.help.into(),
        label_keys: LABELS.iter().chain(metric.labels).map(|key| (*key).to_owned()).collect(),
    });
    descriptors.collect()
}

/// The metrics of all ready pods and their running containers.
pub async fn list(node: &Arc<Node>) -> Vec<cri::PodSandboxMetrics> {
    figures::of_pods(node, |_| true).await.iter().map(of).collect()
}

fn of(pod: &PodFigures) -> cri::PodSandboxMetrics {
    let labels = pod_labels(&pod.record);
    let metrics = TABLE.iter().flat_map(|metric| samples(metric, &labels, (metric.pod)(pod)));
    let container = |figures: &ContainerFigures| {
        let labels = container_labels(&pod.record, &figures.record);
        let metrics = TABLE.iter().flat_map(|metric| samples(metric, &labels, (metric.container)(figures)));
        cri::ContainerMetrics { container_id: figures.record.id.clone(), metrics: metrics.collect() }
    };
    cri::PodSandboxMetrics {
        pod_sandbox_id: pod.record.id.clone(),
        metrics: metrics.collect(),
        container_metrics: pod.containers.iter().map(container).collect(),
    }
}

fn samples(metric: &metric::Metric, labels: &[String; 6], samples: Vec<Sample>) -> Vec<cri::Metric> {
    let with_labels = |sample: Sample| cri::Metric {
        name: metric.name.into(),
        // 0: gathered for this very answer.
        timestamp: 0,
        metric_type: metric.kind.into(),
        label_values: labels.iter().cloned().chain(sample.labels).collect(),
        value: Some(cri::UInt64Value { value: sample.value }),
    };
    samples.into_iter().map(with_labels).collect()
}

fn pod_labels(record: &SandboxRecord) -> [String; 6] {
    let metadata = record.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
    let (id, name) = (record.id.clone(), record.id.clone());
    [id, name, String::new(), POD.into(), metadata.name, metadata.namespace]
}

fn container_labels(pod: &SandboxRecord, record: &ContainerRecord) -> [String; 6] {
    let config = record.config.as_ref();
    let image = config.and_then(|config| config.image.as_ref()).map(|image| {
        // kubelet asks for an image by its id, and keeps the name that a person gave beside it.
        if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image }
    });
    let container = config.and_then(|config| config.metadata.clone()).unwrap_or_default().name;
    let [.., pod, namespace] = pod_labels(pod);
    let (id, name) = (record.id.clone(), record.id.clone());
    [id, name, image.cloned().unwrap_or_default(), container, pod, namespace]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use husk_proto::agent;

    use super::*;
    use crate::cgroup::Cpu;
    use crate::figures::Cost;
    use crate::network::InterfaceCounters;

    fn figures(told: agent::StatsResponse) -> PodFigures {
        let metadata = Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 });
        let config = cri::ContainerConfig {
            metadata,
            image: Some(cri::ImageSpec {
                image: "sha256:1".into(),
                user_specified_image: "busybox".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let record = ContainerRecord { id: "container".into(), config: Some(config), ..Default::default() };
        let metadata =
            cri::PodSandboxMetadata { name: "p".into(), namespace: "ns".into(), ..Default::default() };
        let config = Some(cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() });
        PodFigures {
            record: SandboxRecord { id: "sandbox".into(), config, ..Default::default() },
            at: 5_000_000_000,
            cost: Cost {
                cpu: Cpu { total_nanos: 2_500_000_000, ..Default::default() },
                ..Default::default()
            },
            statistics: Default::default(),
            interfaces: vec![InterfaceCounters { name: "eth0".into(), rx_bytes: 7, ..Default::default() }],
            containers: vec![ContainerFigures::new(record, told)],
            complete: true,
        }
    }

    #[test]
    fn every_metric_is_described_once_and_has_a_value_for_each_label() {
        let all = descriptors();
        let names: HashSet<&str> = all.iter().map(|descriptor| &descriptor.name[..]).collect();
        assert_eq!(names.len(), all.len());
        let device = agent::DeviceUsage { name: "vda".into(), ..Default::default() };
        let metrics = of(&figures(agent::StatsResponse {
            cpu_user_nanos: Some(1),
            devices: vec![device],
            writable_filesystem: Some(Default::default()),
            ..Default::default()
        }));
        for metric in metrics.metrics.iter().chain(&metrics.container_metrics[0].metrics) {
            let described = all.iter().find(|descriptor| descriptor.name == metric.name).unwrap();
            assert_eq!(described.label_keys.len(), metric.label_values.len(), "{metric:?}");
            assert!(metric.value.is_some());
        }
    }

    #[test]
    fn labels_say_whose_a_figure_is() {
        let metrics =
            of(&figures(agent::StatsResponse { cpu_usage_nanos: 3_999_999_999, ..Default::default() }));
        let find = |metrics: &[cri::Metric], name: &str| metrics.iter().find(|m| m.name == name).cloned();
        let cpu = find(&metrics.container_metrics[0].metrics, "container_cpu_usage_seconds_total").unwrap();
        assert_eq!(cpu.label_values, ["container", "container", "busybox", "c", "p", "ns"]);
        assert_eq!((cpu.value.unwrap().value, cpu.metric_type()), (3, cri::MetricType::Counter));
        let cpu = find(&metrics.metrics, "container_cpu_usage_seconds_total").unwrap();
        assert_eq!(cpu.label_values, ["sandbox", "sandbox", "", "POD", "p", "ns"]);
        let received = find(&metrics.metrics, "container_network_receive_bytes_total").unwrap();
        assert_eq!(received.label_values, ["sandbox", "sandbox", "", "POD", "p", "ns", "eth0"]);
        assert_eq!(received.value.unwrap().value, 7);
    }

    #[test]
    fn what_is_not_measured_is_not_told() {
        let of = |told| of(&figures(told)).container_metrics.remove(0).metrics;
        let told = |metrics: &[cri::Metric], name: &str| metrics.iter().any(|metric| metric.name == name);
        let names = ["container_cpu_user_seconds_total", "container_memory_swap", "container_processes"];
        let without = of(agent::StatsResponse::default());
        let (swap, processes) = (Some(0), Some(1));
        let with = of(agent::StatsResponse {
            cpu_user_nanos: Some(1),
            memory_swap_bytes: swap,
            processes,
            ..Default::default()
        });
        for name in names {
            assert!(!told(&without, name) && told(&with, name), "{name}");
        }
    }

    #[test]
    fn what_a_guest_says_is_bounded() {
        for name in ["n".repeat(1000), "v\u{1b}[2J".into(), "vda\n".into()] {
            let device = agent::DeviceUsage { name, ..crate::figures::hostile::device() };
            let devices = vec![device; 1000];
            let metrics = of(&figures(agent::StatsResponse { devices, ..crate::figures::hostile::answer() }));
            let metrics = &metrics.container_metrics[0].metrics;
            assert!(metrics.len() < 1000, "{}", metrics.len());
            let mut labels = metrics.iter().flat_map(|metric| &metric.label_values);
            assert!(labels.all(|value| value.len() < 100 && !value.contains(char::is_control)));
            let cpu =
                metrics.iter().find(|metric| metric.name == "container_cpu_usage_seconds_total").unwrap();
            assert_eq!(cpu.value.unwrap().value, u64::MAX / 1_000_000_000);
        }
    }
}
