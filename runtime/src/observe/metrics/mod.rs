//! Figures of the daemon for Prometheus: what it was asked, how long that took, and what became of it.
//!
//! They are counted always, which costs next to nothing, and served where `metrics.address` says. No label says of which
//! pod, container or image: there are as many series as there are calls, codes and states.

mod figures;
mod process;
mod server;

use std::time::Duration;

use husk_images::{Progress, Step};
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use server::serve;

/// Names and values, both of them husk's own.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Durations = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// Upper bounds of what a call may take, seconds.
const CALL_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The figures. A copy counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<Labels<2>, Counter>,
    call_durations: Durations,
    start_durations: Durations,
    pulls: Family<Labels<1>, Counter>,
    pulls_running: Gauge,
    fetched: Counter,
    templates: Family<Labels<1>, Counter>,
    vm_ends: Family<Labels<1>, Counter>,
}

/// A step of RunPodSandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// The pod's cgroup, scratch disk and network.
    Network,
    /// A VM that boots, until its agent answers.
    Boot,
    /// The same of one that is a clone of a template.
    Clone,
    /// The guest is told what it is.
    Configure,
}

impl StartStep {
    fn name(self) -> &'static str {
        match self {
            StartStep::Network => "network",
            StartStep::Boot => "boot",
            StartStep::Clone => "clone",
            StartStep::Configure => "configure",
        }
    }
}

fn durations() -> Histogram {
    Histogram::new(CALL_BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let durations = || Durations::new_with_constructor(durations as fn() -> Histogram);
        Metrics {
            calls: Family::default(),
            call_durations: durations(),
            start_durations: durations(),
            pulls: Family::default(),
            pulls_running: Gauge::default(),
            fetched: Counter::default(),
            templates: Family::default(),
            vm_ends: Family::default(),
        }
    }
}

impl Metrics {
    /// A call of the CRI has ended.
    pub(super) fn called(&self, method: &'static str, code: &'static str, took: Duration) {
        self.calls.get_or_create(&[("method", method), ("code", code)]).inc();
        self.call_durations.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
    }

    /// A pod has come so far.
    pub fn started(&self, step: StartStep, took: Duration) {
        self.start_durations.get_or_create(&[("step", step.name())]).observe(took.as_secs_f64());
    }

    /// An image is pulled, until the answer's end.
    pub fn pull(&self) -> Pull<'_> {
        self.pulls_running.inc();
        Pull { metrics: self, succeeded: false }
    }

    /// A template was made, or could not be.
    pub fn made_template(&self, succeeded: bool) {
        self.templates.get_or_create(&[("outcome", outcome(succeeded))]).inc();
    }

    /// A pod's VM has ended by itself.
    pub fn vm_ended(&self, reason: &'static str) {
        self.vm_ends.get_or_create(&[("reason", reason)]).inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "husk_cri_calls",
            "Calls of the CRI that have ended, by method and gRPC code",
            self.calls.clone(),
        );
        registry.register(
            "husk_cri_call_duration_seconds",
            "How long calls of the CRI took, streams until their end",
            self.call_durations.clone(),
        );
        registry.register(
            "husk_sandbox_start_step_duration_seconds",
            "How long the steps of RunPodSandbox took that succeeded",
            self.start_durations.clone(),
        );
        registry.register("husk_image_pulls", "Pulls of images that have ended", self.pulls.clone());
        registry.register(
            "husk_image_pulls_running",
            "Pulls of images that go on",
            self.pulls_running.clone(),
        );
        registry.register(
            "husk_image_fetched_bytes",
            "Compressed bytes of the layers and disks that were fetched and converted",
            self.fetched.clone(),
        );
        registry.register(
            "husk_templates_made",
            "Attempts to make a template of VMs",
            self.templates.clone(),
        );
        registry.register(
            "husk_vm_ends",
            "VMs of ready pods that have ended without being stopped, by reason",
            self.vm_ends.clone(),
        );
    }

    /// The figures in Prometheus' text format, those of pods and of the process apart.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        encode(&registry)
    }
}

fn outcome(succeeded: bool) -> &'static str {
    if succeeded { "success" } else { "failure" }
}

/// In Prometheus' text format, version 0.0.4.
fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // A string takes everything.
    let _ = prometheus_text::encode(&mut text, registry);
    text
}

/// A pull that goes on. It has failed when it ends without having succeeded.
pub struct Pull<'a> {
    metrics: &'a Metrics,
    succeeded: bool,
}

impl<'a> Pull<'a> {
    /// Counts what comes, and passes it on.
    pub fn counted<P: Progress>(&self, told: P) -> Counted<'a, P> {
        Counted { fetched: &self.metrics.fetched, told }
    }

    /// The image is there.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        self.metrics.pulls_running.dec();
        self.metrics.pulls.get_or_create(&[("outcome", outcome(self.succeeded))]).inc();
    }
}

/// See [`Pull::counted`].
pub struct Counted<'a, P> {
    fetched: &'a Counter,
    told: P,
}

impl<P: Progress> Progress for Counted<'_, P> {
    fn step(&self, step: Step<'_>) {
        if let Step::Layer { done, total, .. } = step
            && done == total
        {
            self.fetched.inc_by(total);
        }
        self.told.step(step);
    }
}

#[cfg(test)]
mod tests {
    use husk_images::Silent;

    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.called("Version", "OK", Duration::from_millis(2));
        metrics.called("Version", "OK", Duration::from_secs(7000));
        metrics.started(StartStep::Clone, Duration::from_millis(80));
        metrics.made_template(false);
        metrics.vm_ended("reset");
        let running = metrics.pull();
        let pull = metrics.pull();
        let counted = pull.counted(Silent);
        for done in [5, 10] {
            counted.step(Step::Layer { digest: "a", done, total: 10 });
        }
        pull.succeeded();
        drop(metrics.pull());
        let text = metrics.text();
        for line in [
            "# TYPE husk_cri_calls_total counter",
            "husk_cri_calls_total{method=\"Version\",code=\"OK\"} 2",
            "# TYPE husk_cri_call_duration_seconds histogram",
            "husk_cri_call_duration_seconds_bucket{method=\"Version\",le=\"0.0025\"} 1",
            "husk_cri_call_duration_seconds_bucket{method=\"Version\",le=\"+Inf\"} 2",
            "husk_cri_call_duration_seconds_count{method=\"Version\"} 2",
            "husk_sandbox_start_step_duration_seconds_count{step=\"clone\"} 1",
            "husk_image_pulls_total{outcome=\"success\"} 1",
            "husk_image_pulls_total{outcome=\"failure\"} 1",
            "husk_image_pulls_running 1",
            "husk_image_fetched_bytes_total 10",
            "husk_templates_made_total{outcome=\"failure\"} 1",
            "husk_vm_ends_total{reason=\"reset\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\nis not in:\n{text}");
        }
        drop(running);
        assert!(metrics.text().contains("husk_image_pulls_running 0"));
    }
}
