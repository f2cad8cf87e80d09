//! What dies, breaks, fills up or lies, and that nothing else is lost by it.

pub mod crashes;
pub mod host;
pub mod hostile_agent;
pub mod limits;
pub mod more_crashes;
pub mod parts;
pub mod read_only;
pub mod registry;
pub mod restart;
pub mod template_crashes;
pub mod upgrade;
