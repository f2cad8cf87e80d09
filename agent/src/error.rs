//! What can go wrong in the agent, and the gRPC code of each kind.

use std::fmt::Display;
use std::io;

use tonic::Status;

/// An error of the agent; each kind is one gRPC code of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never work.
    #[error("{0}")]
    Invalid(String),
    /// No such container, process or command.
    #[error("{0}")]
    NotFound(String),
    /// The id is taken.
    #[error("{0}")]
    Exists(String),
    /// Not in the present state.
    #[error("{0}")]
    State(String),
    /// A limit of the guest.
    #[error("{0}")]
    Exhausted(String),
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried on what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

/// A result of the agent.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid(_) => Status::invalid_argument(text),
            Error::NotFound(_) => Status::not_found(text),
            Error::Exists(_) => Status::already_exists(text),
            Error::State(_) => Status::failed_precondition(text),
            Error::Exhausted(_) => Status::resource_exhausted(text),
            Error::Io { ref source, .. } if is_no_space(source) => Status::resource_exhausted(text),
            Error::Io { .. } | Error::Internal(_) => Status::internal(text),
        }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    )
}

/// Says what was tried when an operation failed.
pub trait Context<T> {
    /// Wraps the error; `what` names the operation and its object.
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::Io { what: what().to_string(), source: e.into() })
    }
}
