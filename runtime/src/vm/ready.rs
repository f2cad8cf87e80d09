//! The agent's word that it listens: a connection of the guest to [`READY_PORT`] of the host.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use husk_proto::READY_PORT;
use husk_vmm::host_ports;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Where the guest's connections come to. Once this is gone, they are refused.
pub struct Ready(UnixDatagram);

impl Ready {
    /// And the end that the VMM inherits.
    pub fn new() -> io::Result<(Ready, OwnedFd)> {
        let (vmm, host) = host_ports::pair()?;
        host.set_nonblocking(true)?;
        Ok((Ready(UnixDatagram::from_std(host)?), vmm))
    }

    /// Returns when the word has come, with the connection that it came by. A guest's connections to other ports are
    /// closed.
    pub async fn came(&self) -> io::Result<UnixStream> {
        loop {
            match self.0.async_io(Interest::READABLE, || host_ports::accept(self.0.as_fd())).await {
                Ok((READY_PORT, word)) => return Ok(word),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use husk_vmm::host_ports::HostPorts;

    #[tokio::test]
    async fn only_the_right_port_counts() {
        let (ready, vmm) = Ready::new().unwrap();
        let guest = HostPorts::new(Some(vmm));
        let other = guest.connect(READY_PORT + 1).unwrap();
        let came = tokio::time::timeout(std::time::Duration::from_millis(50), ready.came()).await;
        assert!(came.is_err());
        // What nobody wants is closed.
        other.set_nonblocking(false).unwrap();
        assert_eq!(io::Read::read(&mut &other, &mut [0]).unwrap(), 0);
        let _agent = guest.connect(READY_PORT).unwrap();
        ready.came().await.unwrap();
    }
}
