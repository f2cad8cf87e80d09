//! Failures of conversion, as they travel from the worker to the store.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::ImageError;

/// Why a layer or an image could not be converted.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ConvertError {
    /// The bytes break a format's rules.
    #[error("{0}")]
    Malformed(String),
    /// The bytes use a feature that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// A budget is exceeded.
    #[error("{0}")]
    TooLarge(String),
    /// Reading or writing failed on the host's side.
    #[error("{message}")]
    Io {
        /// What failed and how.
        message: String,
        /// `errno`, where there is one.
        code: Option<i32>,
    },
}

impl ConvertError {
    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self::Malformed(text.into())
    }

    /// The same, saying of which entry it tells.
    pub(crate) fn of(self, name: &[u8]) -> Self {
        let named = |text| format!("{}: {text}", show(name));
        match self {
            Self::Malformed(text) => Self::Malformed(named(text)),
            Self::Unsupported(text) => Self::Unsupported(named(text)),
            Self::TooLarge(text) => Self::TooLarge(named(text)),
            io @ Self::Io { .. } => io,
        }
    }

    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::Io { message: format!("{what}: {error}"), code: error.raw_os_error() }
    }
}

impl From<ConvertError> for ImageError {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Malformed(text) => Self::Corrupt(text),
            ConvertError::Unsupported(text) => Self::Unsupported(text),
            ConvertError::TooLarge(text) => Self::TooLarge(text),
            ConvertError::Io { message, code } => Self::Io {
                what: format!("converting an image ({message})"),
                source: code.map_or_else(|| io::Error::other("see above"), io::Error::from_raw_os_error),
            },
        }
    }
}

/// A hostile name, safe to print and short.
pub(crate) fn show(name: &[u8]) -> String {
    let shown = &name[..name.len().min(200)];
    format!("\"{}\"{}", shown.escape_ascii(), if shown.len() < name.len() { "..." } else { "" })
}
