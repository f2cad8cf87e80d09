//! Traces: spans go to an OpenTelemetry collector.
//!
//! They wait in a bounded queue, from which a thread of the SDK's sends them. A collector that is away or slow costs spans:
//! what does not fit into the queue is dropped, and nobody waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use tonic::codegen::http::HeaderMap;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::span;
use crate::config::TracingConfig;
use crate::error::{Error, Result};

/// The most spans that wait to be sent, about 1 KiB each.
const QUEUE: usize = 2048;
/// The most that are sent at once.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take for a batch.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// How long what is left may take when the daemon ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// Sends spans.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends to the collector of the configuration; None if it names none. It is connected to when there are spans.
    ///
    /// # Panics
    /// Outside of an async runtime.
    pub fn start(config: &TracingConfig) -> Result<Option<Traces>> {
        if config.endpoint.is_empty() {
            return Ok(None);
        }
        let exporter =
            Otlp::builder().with_tonic().with_endpoint(&config.endpoint).with_timeout(EXPORT_LIMIT);
        let exporter = exporter
            .build()
            .map_err(|e| Error::Invalid(format!("tracing.endpoint {:?}: {e}", config.endpoint)))?;
        let exporter = Told { exporter, endpoint: config.endpoint.clone(), lost: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let resource = Resource::builder()
            .with_service_name("husk")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            // A caller that traces has decided already.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sampling_ratio))))
            .with_resource(resource)
            .build();
        Ok(Some(Traces(provider)))
    }

    /// Makes spans of calls and their steps into those of traces. Events are for the log alone.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer::<S>()
            .with_tracer(self.0.tracer("husk"))
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && span::is_traced(metadata.target())))
    }

    /// Sends what is left, within a moment, and ends.
    pub async fn finish(self) {
        let done = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_LIMIT)).await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::warn!("the last spans are lost: the collector took too long");
        }
    }
}

/// Makes a call's span a child of the span that its caller names in the request's metadata (W3C Trace Context).
pub(super) fn continue_trace(call: &Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        // Without traces there is nothing to be the child of.
        let _ = call.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// Says once that spans are lost, and once that they are not any more.
#[derive(Debug)]
struct Told<E> {
    exporter: E,
    endpoint: String,
    lost: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let endpoint = &self.endpoint;
        match (&sent, self.lost.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(e), false) => tracing::warn!(endpoint, "the collector takes no spans, they are lost: {e}"),
            (Ok(()), true) => tracing::info!(endpoint, "the collector takes spans again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkError;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::node::lock;

    /// Keeps spans, or fails.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>, bool);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            lock(&self.0).extend(batch);
            if self.1 { Err(OTelSdkError::InternalFailure("no".into())) } else { Ok(()) }
        }
    }

    fn traced(work: impl FnOnce()) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let traces = Traces(provider);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(traces.layer()), work);
        lock(&kept.0).clone()
    }

    #[test]
    fn a_call_is_the_child_of_its_callers_span_and_has_steps() {
        let mut headers = HeaderMap::new();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", parent.parse().unwrap());
        let spans = traced(|| {
            let call = span::call("Version", "runtime.v1.RuntimeService/Version");
            continue_trace(&call, &headers);
            call.record("code", "OK");
            call.in_scope(|| {
                tracing::warn!(secret = "password", "an event");
                futures_util::FutureExt::now_or_never(span::step("fetch", async { Ok(()) }))
                    .unwrap()
                    .unwrap();
            });
            drop(span::about("a", ""));
        });
        let [step, call] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((step.name.as_ref(), call.name.as_ref()), ("fetch", "runtime.v1.RuntimeService/Version"));
        assert_eq!(call.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(step.parent_span_id, call.span_context.span_id());
        for span in &spans {
            assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert!(span.events.is_empty(), "{span:?}");
        }
        let attributes: Vec<_> =
            call.attributes.iter().map(|kv| (kv.key.as_str(), kv.value.as_str())).collect();
        assert_eq!(attributes, [("method", "Version".into()), ("code", "OK".into())]);
    }

    #[test]
    fn a_wrong_traceparent_is_nobodys() {
        for wrong in ["00-0-0-01", "x", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", wrong.parse().unwrap());
            let spans = traced(|| {
                let call = span::call("Version", "x");
                continue_trace(&call, &headers);
                call.in_scope(|| ());
            });
            assert!(spans[0].parent_span_id == opentelemetry::trace::SpanId::INVALID, "{wrong}: {spans:?}");
        }
    }

    #[test]
    fn a_collector_that_fails_is_told_of_once() {
        let told = |fails| Told {
            exporter: Kept(Arc::default(), fails),
            endpoint: "http://collector.test".into(),
            lost: AtomicBool::new(false),
        };
        let failing = told(true);
        let export =
            |told: &Told<Kept>| futures_util::FutureExt::now_or_never(told.export(Vec::new())).unwrap();
        assert!(export(&failing).is_err() && failing.lost.load(Ordering::Relaxed));
        let taking = told(false);
        taking.lost.store(true, Ordering::Relaxed);
        assert!(export(&taking).is_ok() && !taking.lost.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn no_endpoint_no_traces() {
        assert!(Traces::start(&TracingConfig::default()).unwrap().is_none());
    }
}
