//! What a process gives up, for good, before it touches what a tenant supplies: descriptors, namespaces, the file
//! system, resources, its user, capabilities, and system calls.
//!
//! Each module is one of these. All of them change the calling process or thread: but for [`seccomp`], which is a
//! thread's own, they are for a process that still has one thread only.

pub mod descriptors;
pub mod identity;
#[cfg(feature = "intruder")]
pub mod intruder;
pub mod limits;
pub mod namespaces;
pub mod root;
pub mod seccomp;
mod sys;

/// A step of confinement that failed. The process must not go on.
#[derive(Debug, thiserror::Error)]
#[error("confining the process: {step}: {source}")]
pub struct JailError {
    /// What was tried.
    pub step: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

impl JailError {
    /// For `map_err` of a step.
    pub(crate) fn at<E: Into<std::io::Error>>(step: &'static str) -> impl Fn(E) -> Self {
        move |source| Self { step, source: source.into() }
    }
}
