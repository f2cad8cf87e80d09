//! Ties an interface to a tap: all that arrives at one leaves by the other.
//!
//! The redirect takes frames at ingress, before the host's stack sees them. So the interface keeps its
//! addresses (plugins' CHECK wants them) and the host's namespace still answers neither ARP nor anything
//! else: the guest does.

use super::NetworkError;
use super::facts::failed;

/// `ETH_P_ALL` in network byte order, as filters want it.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// `TC_H_INGRESS`'s handle as the parent of filters, "ffff:".
const INGRESS: u32 = 0xffff_0000;

/// Ties two interfaces of the calling thread's namespace together.
pub(super) async fn tie(netlink: &rtnetlink::Handle, a: u32, b: u32) -> Result<(), NetworkError> {
    redirect(netlink, a, b).await?;
    redirect(netlink, b, a).await
}

async fn redirect(netlink: &rtnetlink::Handle, from: u32, to: u32) -> Result<(), NetworkError> {
    let index = i32::try_from(from).map_err(|error| failed(format!("interface index {from}"), error))?;
    let qdisc = netlink.qdisc().add(index).ingress().execute().await;
    qdisc.map_err(|error| failed(format!("add an ingress qdisc to interface {from}"), error))?;
    let what = || format!("redirect interface {from} to {to}");
    let filter = netlink
        .traffic_filter(index)
        .add()
        .parent(INGRESS)
        .protocol(ALL_PROTOCOLS)
        .redirect(to)
        .map_err(|error| failed(what(), error))?;
    filter.execute().await.map_err(|error| failed(what(), error))
}
