//! One metric: its name, and where its values come from.

use husk_proto::cri::MetricType;

use crate::figures::{ContainerFigures, PodFigures};

/// A metric of containers, of pods, or of both.
pub struct Metric {
    /// As cAdvisor names it.
    pub name: &'static str,
    /// For a person.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MetricType,
    /// The labels that it has beside those of all metrics.
    pub labels: &'static [&'static str],
    /// A container's values; none where it is not measured.
    pub container: fn(&ContainerFigures) -> Vec<Sample>,
    /// A pod's.
    pub pod: fn(&PodFigures) -> Vec<Sample>,
}

/// A value.
pub struct Sample {
    /// One for each of [`Metric::labels`].
    pub labels: Vec<String>,
    /// The CRI has whole numbers only.
    pub value: u64,
}

/// What grows.
pub const fn counter(name: &'static str, help: &'static str) -> Metric {
    metric(name, help, MetricType::Counter)
}

/// What goes up and down.
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    metric(name, help, MetricType::Gauge)
}

const fn metric(name: &'static str, help: &'static str, kind: MetricType) -> Metric {
    Metric { name, help, kind, labels: &[], container: |_| Vec::new(), pod: |_| Vec::new() }
}

impl Metric {
    pub const fn labels(self, labels: &'static [&'static str]) -> Metric {
        Metric { labels, ..self }
    }

    pub const fn container(self, container: fn(&ContainerFigures) -> Vec<Sample>) -> Metric {
        Metric { container, ..self }
    }

    pub const fn pod(self, pod: fn(&PodFigures) -> Vec<Sample>) -> Metric {
        Metric { pod, ..self }
    }
}

/// The one value of a metric without labels of its own.
pub fn one(value: impl Into<Option<u64>>) -> Vec<Sample> {
    value.into().map(|value| Sample { labels: Vec::new(), value }).into_iter().collect()
}

/// Whole seconds of nanoseconds.
pub fn seconds(nanos: impl Into<Option<u64>>) -> Vec<Sample> {
    one(nanos.into().map(|nanos| nanos / 1_000_000_000))
}

/// Whole seconds of a time, nanoseconds since the Unix epoch; none of one that was not.
pub fn time(nanos: i64) -> Vec<Sample> {
    seconds(u64::try_from(nanos).ok().filter(|nanos| *nanos > 0))
}

/// A value with labels.
pub fn labelled<const N: usize>(labels: [&str; N], value: u64) -> Sample {
    Sample { labels: labels.map(str::to_owned).into(), value }
}
