//! Taps: the guests' ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nix::net::if_::if_nametoindex;
use rtnetlink::LinkUnspec;

use super::{NetworkError, facts};

/// What the taps' names begin with.
pub(super) const PREFIX: &str = "husktap";

/// A tap in the calling thread's network namespace, up, that lasts as long as its queues.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) queues: Vec<OwnedFd>,
    pub(super) index: u32,
}

/// Makes the tap `name` with the given MTU (bytes) and number of queues.
pub(super) async fn create(
    netlink: &rtnetlink::Handle,
    name: &str,
    mtu: u32,
    queues: u8,
) -> Result<Tap, NetworkError> {
    let at = |step| move |source: io::Error| NetworkError::Tap { name: name.to_owned(), step, source };
    let queues = husk_vmm::make_tap(name, queues).map_err(at("make it"))?;
    let index = if_nametoindex(name).map_err(|errno| at("find its index")(errno.into()))?;
    silence(name).map_err(at("switch IPv6 off"))?;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(index).mtu(mtu).up().build())
        .execute()
        .await
        .map_err(|error| facts::failed(format!("set {name} up with MTU {mtu}"), error))?;
    Ok(Tap { queues, index })
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
