//! The guest's connections to ports of the host.
//!
//! The VMM opens nothing by name, so a connection comes to the host as a descriptor: a message of a datagram socket
//! pair, four bytes with the port (little-endian), and one end of a stream socket with them (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The VMM's end.
#[derive(Debug, Default)]
pub struct HostPorts(Option<OwnedFd>);

impl HostPorts {
    /// The end that was inherited; without one no port answers.
    pub fn new(socket: Option<OwnedFd>) -> Self {
        Self(socket)
    }

    /// Makes a connection to a port. Never waits: a host that has too many to take does not answer either.
    ///
    /// # Errors
    /// What the system says, for example when the host's end is closed.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let socket = self.0.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [theirs.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(socket, &[IoSlice::new(&port.to_le_bytes())], &mut control, flags)?;
        Ok(ours)
    }
}

/// A socket pair: the VMM's end, to be inherited, and the host's.
///
/// # Errors
/// What the system says.
pub fn pair() -> io::Result<(OwnedFd, UnixDatagram)> {
    let (ours, theirs) = UnixDatagram::pair()?;
    Ok((theirs.into(), ours))
}

/// Takes a connection at the host's end: the port and the stream. It waits if the socket does.
///
/// # Errors
/// What the system says; `InvalidData` for what is no such message.
pub fn accept(socket: BorrowedFd<'_>) -> io::Result<(u32, UnixStream)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut port = [0; 4];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut port)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let stream = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match stream {
        Some(stream) if got.bytes == port.len() => Ok((u32::from_le_bytes(port), stream.into())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_connection_arrives_with_its_port() {
        let (vmm, host) = pair().unwrap();
        let ports = HostPorts::new(Some(vmm));
        let mut guest = ports.connect(77).unwrap();
        let (port, mut stream) = accept(host.as_fd()).unwrap();
        assert_eq!(port, 77);
        guest.write_all(b"hello").unwrap();
        drop(guest);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        // Without waiting for a host that does not accept.
        let mut open = Vec::new();
        while let Ok(stream) = ports.connect(1) {
            open.push(stream);
        }
        assert!(!open.is_empty());
        drop(host);
        assert!(ports.connect(1).is_err());
        assert!(HostPorts::default().connect(1).is_err());
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        let (vmm, host) = pair().unwrap();
        let vmm = UnixDatagram::from(vmm);
        for message in [b"1234".as_slice(), b"", b"12345"] {
            vmm.send(message).unwrap();
            assert_eq!(accept(host.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        host.set_nonblocking(true).unwrap();
        assert_eq!(accept(host.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
