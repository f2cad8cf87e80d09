//! A blocking client of the control protocol, for the daemon and tools.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::channel::Channel;
pub use super::channel::ControlError;
use super::{Reply, Request, Response};

/// How long a request may take. A detach waits for the disk requests in flight and a resize as long as it says; all
/// else is quick.
const LIMIT: Duration = Duration::from_secs(10);

/// A snapshot takes as long as its memory takes to be written.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(120);

/// A connection to a VMM.
#[derive(Debug)]
pub struct ControlClient(Channel);

impl ControlClient {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ControlError::Io`] when nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ControlError::Io { action: "connecting to", source })?;
        Ok(Self(Channel::new(stream)))
    }

    /// Asks and waits for the answer, 10 s at most each way, and a resize's patience.
    ///
    /// # Errors
    /// [`ControlError`]; after all but [`ControlError::Refused`] the connection is of no use.
    pub fn request(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ControlError> {
        self.0.send(request, fds, LIMIT)?;
        let patience = match request {
            Request::Resize { patience_ms, .. } => Duration::from_millis((*patience_ms).into()),
            Request::Snapshot => SNAPSHOT_LIMIT,
            _ => Duration::ZERO,
        };
        let line = self.0.receive(Some(LIMIT + patience))?.ok_or(ControlError::Closed)?;
        match serde_json::from_slice(&line.text)? {
            Response::Ok(reply) => Ok(reply),
            Response::Error(why) => Err(ControlError::Refused(why)),
        }
    }
}
