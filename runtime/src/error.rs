//! What can go wrong in the daemon, by what the caller can do about it. `cri` turns it into gRPC codes.

use std::io::ErrorKind;
use std::path::Path;

/// The daemon's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The daemon's error; the text names the thing, the value and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never work.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{kind} {id:?} is not known")]
    NotFound {
        /// "sandbox", "container", "image".
        kind: &'static str,
        /// As the caller wrote it.
        id: String,
    },
    /// There is no such thing; the text says how to get it.
    #[error("{0}")]
    Missing(String),
    /// The name is taken.
    #[error("{0}")]
    Exists(String),
    /// It is in the wrong state for that.
    #[error("{0}")]
    State(String),
    /// Something that is needed is not there now; a retry may work.
    #[error("{0}")]
    Unavailable(String),
    /// A limit was reached.
    #[error("{0}")]
    Exhausted(String),
    /// It took too long.
    #[error("{0}")]
    Deadline(String),
    /// Who asked for it does not wait for it any more.
    #[error("{0}")]
    Cancelled(String),
    /// husk does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// Credentials are missing or wrong.
    #[error("{0}")]
    Denied(String),
    /// Everything else.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// A failed system call on a path.
    pub fn io(what: &str, path: &Path, error: std::io::Error) -> Error {
        let text = format!("cannot {what} {}: {error}", path.display());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Exhausted(text),
            _ => Error::Internal(text),
        }
    }

    /// An unknown sandbox.
    pub fn no_sandbox(id: &str) -> Error {
        Error::NotFound { kind: "sandbox", id: id.into() }
    }

    /// An unknown container.
    pub fn no_container(id: &str) -> Error {
        Error::NotFound { kind: "container", id: id.into() }
    }
}
