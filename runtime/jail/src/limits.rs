//! Resources.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::JailError;

/// Limits a resource for good: not even the process itself can raise it again. A limit that is lower already stays.
///
/// # Errors
/// What the system says.
pub fn lower(resource: Resource, most: u64) -> Result<(), JailError> {
    set(resource, most, most)
}

/// Limits CPU time: at `seconds` the process gets SIGXCPU, a second later SIGKILL.
///
/// # Errors
/// What the system says.
pub fn lower_cpu(seconds: u64) -> Result<(), JailError> {
    set(Resource::Cpu, seconds, seconds.saturating_add(1))
}

fn set(resource: Resource, current: u64, maximum: u64) -> Result<(), JailError> {
    let maximum = getrlimit(resource).maximum.map_or(maximum, |lower| lower.min(maximum));
    let limit = Rlimit { current: Some(current.min(maximum)), maximum: Some(maximum) };
    setrlimit(resource, limit).map_err(JailError::at("limiting a resource"))
}
