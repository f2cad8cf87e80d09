//! What an operator can watch the daemon by: log lines, metrics, traces.

mod call;
mod lines;
pub mod metrics;
mod span;
mod traces;

use std::io::IsTerminal;

use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

pub use call::CallLayer;
pub use lines::Format;
pub use metrics::Metrics;
pub use span::{about, is_about, step, work};
pub use traces::Traces;

/// Writes log lines to standard error, those that `filter` (tracing's syntax) lets through, and gives spans to `traces`.
pub fn start(filter: &str, format: Format, traces: Option<&Traces>) {
    let lines = lines::Lines::new(format, std::io::stderr().is_terminal());
    // Whatever is let through: what a line is about comes from spans. Steps are for traces alone.
    let fields = filter_fn(|metadata| metadata.is_span() && span::is_told(metadata.target()));
    let others = filter_fn(|metadata| metadata.target() != span::STEP);
    registry()
        .with(traces.map(|traces| traces.layer()))
        .with(lines.with_filter(EnvFilter::new(filter).and(others).or(fields)))
        .init();
}
