//! What dies, breaks, fills up or lies, and that nothing else is lost by it.

pub mod crashes;
pub mod host;
pub mod hostile_agent;
pub mod parts;
pub mod restart;
