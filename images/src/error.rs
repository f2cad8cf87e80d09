//! What can go wrong, told apart as far as callers answer differently.

use std::io;

/// A failure of the image store. Each variant maps to one gRPC code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The reference cannot be parsed (INVALID_ARGUMENT).
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference {
        /// As the caller gave it.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry, layout or store has no such thing (NOT_FOUND).
    #[error("{0} not found")]
    NotFound(String),
    /// The registry refused the credentials, or wants some (UNAUTHENTICATED or PERMISSION_DENIED).
    #[error("{what}: the registry refused access: {reason}")]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// The registry's status and what was tried.
        reason: String,
    },
    /// The registry cannot be reached or fails for the moment (UNAVAILABLE).
    #[error("registry {registry} is unavailable: {reason}")]
    Unavailable {
        /// Host and port.
        registry: String,
        /// The last failure.
        reason: String,
    },
    /// Content that does not match its digest, or does not parse (DATA_LOSS or FAILED_PRECONDITION).
    #[error("corrupt image content: {0}")]
    Corrupt(String),
    /// The image exists, for other machines (FAILED_PRECONDITION).
    #[error("{reference} has no linux/amd64 variant, only: {found}")]
    UnsupportedPlatform {
        /// The image.
        reference: String,
        /// The platforms that it has.
        found: String,
    },
    /// A media type or archive feature that is not supported (UNIMPLEMENTED).
    #[error("unsupported image content: {0}")]
    Unsupported(String),
    /// A budget is exceeded (RESOURCE_EXHAUSTED).
    #[error("image exceeds a limit: {0}")]
    TooLarge(String),
    /// Another process has the store open (UNAVAILABLE).
    #[error("the image store {0} is in use by another process: stop that one, or choose another directory")]
    InUse(String),
    /// The host's file system or a process failed (INTERNAL; RESOURCE_EXHAUSTED for a full disk).
    #[error("{what}: {source}")]
    Io {
        /// The operation and its path.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

impl ImageError {
    /// The same, saying of what it tells.
    pub(crate) fn of(self, thing: &str) -> Self {
        match self {
            Self::Corrupt(text) => Self::Corrupt(format!("{thing}: {text}")),
            Self::Unsupported(text) => Self::Unsupported(format!("{thing}: {text}")),
            Self::TooLarge(text) => Self::TooLarge(format!("{thing}: {text}")),
            Self::Io { what, source } => Self::Io { what: format!("{thing}: {what}"), source },
            other => other,
        }
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, ImageError>;

/// Names the operation that an I/O error belongs to.
pub(crate) trait IoContext<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| ImageError::Io { what: what(), source })
    }
}
