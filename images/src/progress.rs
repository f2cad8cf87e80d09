//! How a pull tells what it does.

/// The target of the tracing spans of a pull's steps: "resolve", "layer" with its digest, "merge".
pub const STEP_SPANS: &str = "husk::step";

/// A step's span.
pub(crate) fn step_span(name: &'static str, digest: Option<&str>) -> tracing::Span {
    tracing::error_span!(target: STEP_SPANS, "step", otel.name = name, digest)
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The image is known: its id, and the layers that are to be fetched with their compressed bytes.
    Resolved {
        /// The image's id.
        id: &'a str,
        /// Number of layers to fetch.
        layers: usize,
        /// Their compressed bytes together.
        bytes: u64,
    },
    /// Of a layer, by its compressed digest, `done` of `total` compressed bytes are read and converted.
    Layer {
        /// The layer's digest.
        digest: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// All layers are there; the image's metadata is being written.
    Merging,
}

/// Hears of a pull's steps, from the thread that pulls: it must not block.
pub trait Progress: Send + Sync {
    /// A step is taken.
    fn step(&self, step: Step<'_>);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: Step<'_>) {}
}
