//! Taps: the guests' ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nix::net::if_::if_nametoindex;
use rtnetlink::LinkUnspec;

use super::{NetworkError, facts};

/// What the taps' names begin with.
pub(super) const PREFIX: &str = "husktap";

/// A tap in the network namespace of the thread that made it. It lasts as long as its queues.
#[derive(Debug)]
pub(super) struct Tap {
    name: String,
    pub(super) queues: Vec<OwnedFd>,
    pub(super) index: u32,
}

/// Makes the tap for a pod's interface of that number, with so many queues. It is down.
pub(super) fn make(number: usize, queues: u8) -> Result<Tap, NetworkError> {
    let name = &format!("{PREFIX}{number}");
    let at = |step| move |source: io::Error| NetworkError::Tap { name: name.clone(), step, source };
    let queues = husk_vmm::make_tap(name, queues).map_err(at("make it"))?;
    let index = if_nametoindex(name.as_str()).map_err(|errno| at("find its index")(errno.into()))?;
    silence(name).map_err(at("switch IPv6 off"))?;
    Ok(Tap { name: name.clone(), queues, index })
}

impl Tap {
    /// Sets it up, with the given MTU (bytes).
    pub(super) async fn bring_up(&self, netlink: &rtnetlink::Handle, mtu: u32) -> Result<(), NetworkError> {
        let link = LinkUnspec::new_with_index(self.index).mtu(mtu).up().build();
        let done = netlink.link().set(link).execute().await;
        done.map_err(|error| facts::failed(format!("set {} up with MTU {mtu}", self.name), error))
    }
}

/// Keeps the host's kernel from talking IPv6 of its own (router solicitations, multicast reports) to the
/// guest. `/proc/sys/net` is that of the calling thread's namespace.
fn silence(name: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel without IPv6 has nothing to say.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
