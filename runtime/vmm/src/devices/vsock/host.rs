//! The host's side: unix sockets by the convention that [`crate::config::VsockConfig::socket`] tells.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{RecvFlags, recv};

/// "CONNECT 4294967295\n", and a little for blanks.
const LONGEST_LINE: usize = 32;

/// Makes the socket that clients connect to (mode 0600).
///
/// # Errors
/// What the system says, `AddrInUse` when there is something at `path`.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What a client has said.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Not enough yet.
    Incomplete,
    /// The guest's port that it wants.
    Connect(u32),
    /// Nonsense, or it is gone.
    Bad,
}

/// Reads the line "CONNECT port", and not a byte of what follows.
pub fn greeting(stream: &UnixStream) -> Greeting {
    let mut bytes = [0; LONGEST_LINE];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let seen = match recv(stream, &mut bytes, flags) {
        Ok((seen, _)) if seen > 0 => bytes.get(..seen).unwrap_or_default(),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Greeting::Incomplete,
        _ => return Greeting::Bad,
    };
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() < LONGEST_LINE { Greeting::Incomplete } else { Greeting::Bad };
    };
    let port = std::str::from_utf8(&seen[..end])
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "))
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok());
    let mut line = [0; LONGEST_LINE];
    match (port, recv(stream, &mut line[..=end], RecvFlags::DONTWAIT)) {
        (Some(port), Ok((taken, _))) if taken == end + 1 => Greeting::Connect(port),
        _ => Greeting::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn the_greeting_may_come_in_pieces_and_data_behind_it_stays() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        assert_eq!(greeting(&stream), Greeting::Incomplete);
        client.write_all(b"CONNECT 10").unwrap();
        assert_eq!(greeting(&stream), Greeting::Incomplete);
        client.write_all(b"24\ndata").unwrap();
        assert_eq!(greeting(&stream), Greeting::Connect(1024));
        let mut rest = [0; 16];
        let got = (&stream).read(&mut rest).unwrap();
        assert_eq!(&rest[..got], b"data");
        drop(client);
        assert_eq!(greeting(&stream), Greeting::Bad);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "CONNECT x\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 4294967296\n",
            "CONNECT \n",
            "\n",
            "\u{fffd}\n",
            "CONNECT 00000000000000000000000000000000000001\n",
        ] {
            let (mut client, stream) = UnixStream::pair().unwrap();
            client.write_all(text.as_bytes()).unwrap();
            // "CONNECT " with no digits has an empty port, which is no number either.
            assert_eq!(greeting(&stream), Greeting::Bad, "{text:?}");
        }
    }

    #[test]
    fn the_socket_is_its_owners_and_takes_no_others_place() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock.sock");
        listen(&socket).unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen(&socket).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
