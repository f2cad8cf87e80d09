//! The CRI v1 endpoint: translates and validates, and leaves the work to `sandbox`, `container` and `images`.

mod auth;
mod checkpoint;
mod chunks;
mod code;
mod events;
mod images;
mod info;
mod list;
mod metrics;
mod pod_stats;
mod runtime;
mod serve;
mod stats;
mod view;
mod work;

pub use serve::{MAX_MESSAGE, serve};
