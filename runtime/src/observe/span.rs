//! Spans: what a log line is about, and what a trace consists of.
//!
//! They are of the level "error", so that no filter of the log's level takes them away.

use tracing::{Instrument, Span, error_span, field};

use crate::error::Result;
use crate::node::Node;

/// Spans of calls: their fields are on the lines of the log, and a trace has them.
pub(super) const CALL: &str = "husk::call";
/// Spans that only say what the lines within are about.
pub(super) const ABOUT: &str = "husk::about";
/// Spans that only a trace has.
pub(super) const STEP: &str = husk_images::STEP_SPANS;

/// Whether the log's lines have the fields of spans of this target.
pub(super) fn is_told(target: &str) -> bool {
    target == CALL || target == ABOUT
}

/// Whether a trace has spans of this target.
pub(super) fn is_traced(target: &str) -> bool {
    target == CALL || target == STEP
}

/// A call of a client; `name` is what a trace calls it.
pub(super) fn call(method: &'static str, name: &'static str) -> Span {
    error_span!(
        target: CALL,
        "call",
        method,
        sandbox = field::Empty,
        container = field::Empty,
        code = field::Empty,
        otel.name = name,
        otel.kind = "server",
        otel.status_code = field::Empty,
    )
}

/// What is done over a streaming connection.
pub fn work(method: &'static str, node: &Node, sandbox: &str, container: &str) -> Span {
    let span = error_span!(
        target: CALL,
        "work",
        method,
        sandbox = field::Empty,
        container = field::Empty,
        otel.name = method,
        otel.kind = "server",
    );
    is_about(&span, node, sandbox, container);
    span
}

/// What goes on for a pod, or one of its containers, outside of calls. Empty: none.
pub fn about(sandbox: &str, container: &str) -> Span {
    let shown = |id: &str| (!id.is_empty()).then(|| id.to_owned());
    error_span!(target: ABOUT, "about", sandbox = shown(sandbox), container = shown(container))
}

/// Says what pod and container, by the ids of a request or beginnings of them, a call is about. Empty: none.
pub fn is_about(span: &Span, node: &Node, sandbox: &str, container: &str) {
    if let Ok(pod) = node.pod(sandbox) {
        span.record("sandbox", pod.id.as_str());
    }
    if let Ok(container) = node.container(container) {
        span.record("sandbox", container.record().sandbox_id);
        span.record("container", container.id.as_str());
    }
}

/// A step of a call, for traces.
pub async fn step<T>(name: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let span = error_span!(target: STEP, "step", otel.name = name, otel.status_code = field::Empty);
    let outcome = work.instrument(span.clone()).await;
    if outcome.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    outcome
}
