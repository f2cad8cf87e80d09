//! What went over a pod's interfaces, as the host's kernel counts it at the host's end of each.

use rtnetlink::Handle;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, Stats64};

use super::{NetworkError, POD_INTERFACE, facts, tap};

/// Counters of one interface since it was made; received is what the pod received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InterfaceCounters {
    /// As CNI named it.
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Of every interface of the calling thread's namespace that a guest has taken over, the pod's first one first.
pub(super) async fn read(netlink: &Handle) -> Result<Vec<InterfaceCounters>, NetworkError> {
    let links = facts::collect("list links", netlink.link().get().execute()).await?;
    let mut all: Vec<InterfaceCounters> = links.into_iter().filter_map(counters).collect();
    all.sort_by_key(|interface| interface.name != POD_INTERFACE);
    Ok(all)
}

fn counters(message: LinkMessage) -> Option<InterfaceCounters> {
    let stats = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(*stats),
        _ => None,
    });
    let name = facts::link(message)?.name;
    if name.starts_with(tap::PREFIX) {
        return None;
    }
    let Stats64 { rx_bytes, rx_packets, rx_errors, rx_dropped, .. } = stats?;
    let Stats64 { tx_bytes, tx_packets, tx_errors, tx_dropped, .. } = stats?;
    Some(InterfaceCounters {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    })
}
