//! Errors as gRPC codes: the one place where they meet.

use husk_images::ImageError;
use tonic::{Code, Status};

use crate::error::Error;
use crate::network::NetworkError;

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let code = match &error {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::NotFound { .. } | Error::Missing(_) => Code::NotFound,
            Error::Exists(_) => Code::AlreadyExists,
            Error::State(_) => Code::FailedPrecondition,
            Error::Unavailable(_) => Code::Unavailable,
            Error::Exhausted(_) => Code::ResourceExhausted,
            Error::Deadline(_) => Code::DeadlineExceeded,
            Error::Cancelled(_) => Code::Cancelled,
            Error::Unsupported(_) => Code::Unimplemented,
            Error::Denied(_) => Code::PermissionDenied,
            Error::Internal(_) => Code::Internal,
        };
        Status::new(code, error.to_string())
    }
}

impl From<NetworkError> for Error {
    fn from(error: NetworkError) -> Error {
        let text = format!("network: {error}");
        match error {
            NetworkError::PluginTimeout { .. } => Error::Deadline(text),
            error => Error::of_host(&text, &error).unwrap_or(Error::Internal(text)),
        }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Error {
        let text = error.to_string();
        match error {
            ImageError::InvalidReference { .. } => Error::Invalid(text),
            ImageError::NotFound(what) => Error::NotFound { kind: "image", id: what },
            ImageError::Unauthorized { .. } => Error::Denied(text),
            ImageError::Unavailable { .. } | ImageError::InUse(_) => Error::Unavailable(text),
            // As containerd answers for content that is not what its digest says.
            ImageError::Corrupt(_) | ImageError::UnsupportedPlatform { .. } => Error::State(text),
            ImageError::Unsupported(_) => Error::Unsupported(text),
            ImageError::TooLarge(_) => Error::Exhausted(text),
            error => Error::of_host(&text, &error).unwrap_or(Error::Internal(text)),
        }
    }
}
