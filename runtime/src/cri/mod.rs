//! The CRI v1 endpoint: translates and validates, and leaves the work to `sandbox`, `container` and `images`.

mod auth;
mod code;
mod images;
mod pod_stats;
mod runtime;
mod serve;
mod stats;
mod view;

pub use serve::serve;
