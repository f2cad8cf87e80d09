//! Lines and descriptors over a unix stream socket, for both ends of the protocol.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;

use super::{MAX_FDS, MAX_LINE};

/// The most that one system call reads.
const PIECE: usize = 4096;

/// Why a conversation over the control socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket.
    #[error("{action} the control socket: {source}")]
    Io {
        /// "connecting to", "reading" or "writing".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("the other end of the control socket did not answer within {0:?}")]
    Timeout(Duration),
    /// The other end is gone.
    #[error("the other end closed the control socket")]
    Closed,
    /// A line is longer than [`MAX_LINE`].
    #[error("a line of the control protocol is longer than {MAX_LINE} bytes")]
    TooLong,
    /// More descriptors than [`MAX_FDS`], or than this process may open.
    #[error("{0} descriptors with one request; at most {MAX_FDS}, and no more than RLIMIT_NOFILE allows")]
    TooManyFds(usize),
    /// A line is not what the protocol knows.
    #[error("not a message of the control protocol: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The VMM understood the request and did not do it.
    #[error("{0}")]
    Refused(String),
}

impl ControlError {
    fn io(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::Io { action, source: error.into() }
    }
}

/// A message as it came, without its newline.
#[derive(Debug, Default)]
pub struct Line {
    /// JSON.
    pub text: Vec<u8>,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    received: Line,
}

impl Channel {
    /// Talks over `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, received: Line::default() }
    }

    /// Writes a message as one line; its first byte carries `fds`.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is sent when the message or the descriptors are too many.
    pub fn send(
        &mut self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), ControlError> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(ControlError::TooLong);
        }
        if fds.len() > MAX_FDS {
            return Err(ControlError::TooManyFds(fds.len()));
        }
        let deadline = Instant::now() + limit;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut rest: &[u8] = &line;
        let mut fds = fds;
        while !rest.is_empty() {
            let left = remaining(deadline, limit)?;
            self.stream
                .set_write_timeout(Some(left))
                .map_err(|source| ControlError::Io { action: "writing", source })?;
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            match sendmsg(&self.stream, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(ControlError::Timeout(limit)),
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                    return Err(ControlError::Closed);
                }
                Err(error) => return Err(ControlError::io("writing")(error)),
            }
        }
        Ok(())
    }

    /// Waits for a line, at most `limit`, or for ever. None at the end of the connection.
    ///
    /// # Errors
    /// [`ControlError`]; the connection is of no use afterwards.
    pub fn receive(&mut self, limit: Option<Duration>) -> Result<Option<Line>, ControlError> {
        let deadline = limit.map(|limit| (Instant::now() + limit, limit));
        let mut searched = 0;
        loop {
            if let Some(at) = self.received.text[searched..].iter().position(|byte| *byte == b'\n') {
                let mut rest = self.received.text.split_off(searched + at);
                rest.remove(0);
                let fds = std::mem::take(&mut self.received.fds);
                let text = std::mem::replace(&mut self.received.text, rest);
                return Ok(Some(Line { text, fds }));
            }
            searched = self.received.text.len();
            if searched >= MAX_LINE {
                return Err(ControlError::TooLong);
            }
            let left = deadline.map(|(deadline, limit)| remaining(deadline, limit)).transpose()?;
            self.stream
                .set_read_timeout(left)
                .map_err(|source| ControlError::Io { action: "reading", source })?;
            match self.fill() {
                Ok(0) if searched == 0 => return Ok(None),
                Ok(0) => return Err(ControlError::Closed),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(ControlError::Timeout(limit.unwrap_or_default()));
                }
                Err(rustix::io::Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(rustix::io::Errno::MSGSIZE) => {
                    return Err(ControlError::TooManyFds(self.received.fds.len()));
                }
                Err(error) => return Err(ControlError::io("reading")(error)),
            }
        }
    }

    /// Reads a piece; `EMSGSIZE` when its descriptors are too many.
    fn fill(&mut self) -> Result<usize, rustix::io::Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut piece = [0; PIECE];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut piece)], &mut control, flags)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.received.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.received.fds.len() > MAX_FDS {
            return Err(rustix::io::Errno::MSGSIZE);
        }
        self.received.text.extend_from_slice(piece.get(..message.bytes).unwrap_or_default());
        Ok(message.bytes)
    }
}

/// Never zero, which would mean no limit to the socket.
fn remaining(deadline: Instant, limit: Duration) -> Result<Duration, ControlError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ControlError::Timeout(limit)) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (Channel, Channel) {
        let (left, right) = UnixStream::pair().unwrap();
        (Channel::new(left), Channel::new(right))
    }

    #[test]
    fn lines_arrive_with_their_descriptors() {
        let (mut left, mut right) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        left.send(&"first", &[file.as_fd(), file.as_fd()], SOON).unwrap();
        left.send(&"second", &[], SOON).unwrap();
        let first = right.receive(Some(SOON)).unwrap().unwrap();
        assert_eq!((first.text.as_slice(), first.fds.len()), (b"\"first\"".as_slice(), 2));
        let mut received = File::from(first.fds.into_iter().next().unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        let second = right.receive(Some(SOON)).unwrap().unwrap();
        assert_eq!((second.text.as_slice(), second.fds.len()), (b"\"second\"".as_slice(), 0));
        drop(left);
        assert!(right.receive(Some(SOON)).unwrap().is_none());
    }

    #[test]
    fn long_lines_are_refused_on_both_sides() {
        let (mut left, mut right) = pair();
        let long = "x".repeat(MAX_LINE);
        assert!(matches!(left.send(&long, &[], SOON), Err(ControlError::TooLong)));
        let writer = std::thread::spawn(move || {
            let _ = left.stream.write_all(long.as_bytes());
            left
        });
        assert!(matches!(right.receive(Some(SOON)), Err(ControlError::TooLong)));
        writer.join().unwrap();
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let (mut left, mut right) = pair();
        let file = tempfile::tempfile().unwrap();
        let fds = vec![file.as_fd(); MAX_FDS + 1];
        assert!(matches!(left.send(&"x", &fds, SOON), Err(ControlError::TooManyFds(_))));
        // What a client that does not care can do: descriptors with every byte of one line.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        for _ in 0..2 {
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds[..200])));
            sendmsg(&left.stream, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).unwrap();
        }
        assert!(matches!(right.receive(Some(SOON)), Err(ControlError::TooManyFds(_))));
    }

    #[test]
    fn a_silent_or_trickling_peer_is_given_up() {
        let (mut left, mut right) = pair();
        let limit = Duration::from_millis(50);
        let began = Instant::now();
        assert!(matches!(right.receive(Some(limit)), Err(ControlError::Timeout(_))));
        let writer = std::thread::spawn(move || {
            for _ in 0..200 {
                let _ = left.stream.write_all(b"x");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(matches!(right.receive(Some(limit)), Err(ControlError::Timeout(_))));
        assert!(began.elapsed() < Duration::from_millis(900));
        drop(right);
        writer.join().unwrap();
    }

    #[test]
    fn half_a_line_is_no_message() {
        let (mut left, mut right) = pair();
        left.stream.write_all(b"half").unwrap();
        drop(left);
        assert!(matches!(right.receive(Some(SOON)), Err(ControlError::Closed)));
    }
}
