//! How many pods and containers there are, looked at when they are asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::node::Node;
use crate::store::{ContainerRecord, Phase};

/// The node's.
pub(super) struct Figures(pub Arc<Node>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let pods: Vec<Phase> = self.0.pods().iter().map(|pod| pod.phase()).collect();
        let containers: Vec<Phase> =
            self.0.containers().iter().map(|container| container.seen(ContainerRecord::phase)).collect();
        states(&mut encoder, "husk_sandboxes", "Pods by state", &pods, &PODS)?;
        states(&mut encoder, "husk_containers", "Containers by state", &containers, &CONTAINERS)
    }
}

const PODS: [(Phase, &str); 4] = [
    (Phase::Creating, "creating"),
    (Phase::Running, "ready"),
    (Phase::Stopped, "notready"),
    (Phase::Removing, "removing"),
];

const CONTAINERS: [(Phase, &str); 5] = [
    (Phase::Creating, "creating"),
    (Phase::Created, "created"),
    (Phase::Running, "running"),
    (Phase::Stopped, "exited"),
    (Phase::Removing, "removing"),
];

/// A series for each state, whether anything is in it or not.
fn states(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    all: &[Phase],
    names: &[(Phase, &'static str)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (phase, name) in names {
        let count = all.iter().filter(|other| *other == phase).count();
        ConstGauge::new(count as u64).encode(metric.encode_family(&[("state", *name)])?)?;
    }
    Ok(())
}
