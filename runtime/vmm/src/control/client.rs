//! A blocking client of the control protocol, for the daemon and tools.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

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
    /// [`ControlError::Io`] when nobody listens there, [`ControlError::Timeout`] when no connection is taken for 10 s.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        Self::connect_within(path, LIMIT)
    }

    fn connect_within(path: &Path, limit: Duration) -> Result<Self, ControlError> {
        let connected = || -> Result<UnixStream, Errno> {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Where a VMM takes no connections, one waits for a place in its queue as long as a send may.
            set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
            connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket.into())
        };
        let stream = connected().map_err(|error| match error {
            Errno::AGAIN => ControlError::Timeout(limit),
            error => ControlError::Io { action: "connecting to", source: error.into() },
        })?;
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

#[cfg(test)]
mod tests {
    use rustix::net::{bind, listen};

    use super::*;

    #[test]
    fn who_takes_no_connection_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let limit = Duration::from_millis(100);
        let waiting: Vec<_> = (0..3).map(|_| ControlClient::connect_within(&path, limit)).collect();
        let refused = waiting.into_iter().find_map(Result::err).expect("the queue has an end");
        assert!(matches!(refused, ControlError::Timeout(_)), "{refused}");
    }
}
