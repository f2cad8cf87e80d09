//! The node around pods: streams, events and figures, limits and cgroups, the command line and the operator's view.

pub mod cgroups;
pub mod churn;
pub mod command_line;
pub mod events;
pub mod limits;
pub mod lists;
pub mod metrics;
pub mod observe;
pub mod operator;
pub mod scrape;
pub mod streaming;
