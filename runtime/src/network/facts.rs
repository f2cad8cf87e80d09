//! Reads from a namespace what its interfaces are, so that the guest can be given the same.

use std::fmt::{self, Write};
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio_stream::{Stream, StreamExt};

use super::{GuestRoute, NetworkError};

/// The most entries of one kind that are read from a namespace.
const MAX_ENTRIES: usize = 4096;

/// The index of the loopback interface, the first that a namespace has.
const LOOPBACK: u32 = 1;

/// What CNI made.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) links: Vec<Link>,
    pub(super) routes: Vec<GuestRoute>,
}

/// An Ethernet interface that is up.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: String,
    pub(super) mtu: u32,
    pub(super) addresses: Vec<String>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug)]
struct Address {
    link: u32,
    ip: IpAddr,
    prefix: u8,
}

/// A unicast route of the main table.
#[derive(Clone, Copy, Debug)]
struct Route {
    link: u32,
    destination: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    /// The kernel made it for an address's network.
    connected: bool,
    /// The gateway needs no route of its own.
    on_link: bool,
}

/// Sets the loopback interface up.
pub(super) async fn bring_up_loopback(netlink: &Handle) -> Result<(), NetworkError> {
    let request = netlink.link().set(LinkUnspec::new_with_index(LOOPBACK).up().build());
    request.execute().await.map_err(|error| failed("set lo up".to_owned(), error))
}

/// Reads the calling thread's namespace, as `netlink` shows it.
pub(super) async fn read(netlink: &Handle) -> Result<Facts, NetworkError> {
    let links = collect("list links", netlink.link().get().execute()).await?;
    let addresses = collect("list addresses", netlink.address().get().execute()).await?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessageBuilder::<IpAddr>::new().build();
        message.header.address_family = family;
        routes.extend(collect("list routes", netlink.route().get(message).execute()).await?);
    }
    let mut links: Vec<Link> = links.into_iter().filter_map(link).collect();
    let addresses: Vec<Address> = addresses.into_iter().filter_map(address).collect();
    let routes: Vec<Route> = routes.into_iter().filter_map(route).collect();
    for link in &mut links {
        link.addresses = guest_addresses(link.index, &addresses, &routes);
    }
    let routes = guest_routes(&links, &routes);
    Ok(Facts { links, routes })
}

/// Names what was tried in a netlink error.
pub(super) fn failed(what: String, error: impl fmt::Display) -> NetworkError {
    NetworkError::Netlink { what, why: error.to_string() }
}

pub(super) async fn collect<T>(
    what: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetworkError> {
    let mut stream = std::pin::pin!(stream);
    let mut all = Vec::new();
    while let Some(item) = stream.next().await {
        if all.len() == MAX_ENTRIES {
            return Err(failed(what.to_owned(), format_args!("more than {MAX_ENTRIES} entries")));
        }
        all.push(item.map_err(|error| failed(what.to_owned(), error))?);
    }
    Ok(all)
}

/// Fallback devices of tunnel modules (gretap0, erspan0) appear in every namespace; they are down.
pub(super) fn link(message: LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.link_layer_type != LinkLayerType::Ether || !header.flags.contains(LinkFlags::Up) {
        return None;
    }
    let (mut name, mut mac, mut mtu) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Address(value) if value.len() == 6 => mac = Some(mac_text(&value)),
            LinkAttribute::Mtu(value) => mtu = Some(value),
            _ => {}
        }
    }
    Some(Link { index: header.index, name: name?, mac: mac?, mtu: mtu?, addresses: Vec::new() })
}

fn mac_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(17);
    for (n, byte) in bytes.iter().enumerate() {
        let separator = if n == 0 { "" } else { ":" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{byte:02x}");
    }
    text
}

/// Link-local addresses are left out: the guest makes its own from the same MAC.
fn address(message: AddressMessage) -> Option<Address> {
    let header = &message.header;
    if header.scope == AddressScope::Link && header.family == AddressFamily::Inet6 {
        return None;
    }
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            _ => {}
        }
    }
    // IPv4 has the interface's own address in "local"; IPv6 has it there for point-to-point links only.
    Some(Address { link: header.index, ip: local.or(peer)?, prefix: header.prefix_len })
}

fn route(message: RouteMessage) -> Option<Route> {
    let header = &message.header;
    let v6 = header.address_family == AddressFamily::Inet6;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    if header.kind != RouteType::Unicast
        || header.protocol == RouteProtocol::Ra
        || table.unwrap_or(header.table.into()) != u32::from(RouteHeader::RT_TABLE_MAIN)
    {
        return None;
    }
    let (mut link, mut gateway, mut destination) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Destination(address) => destination = ip(address),
            _ => {}
        }
    }
    let any: IpAddr = if v6 { [0; 16].into() } else { [0; 4].into() };
    let Some(link) = link else {
        tracing::warn!(
            ?message,
            "a route with several next hops or without an interface is not given to the guest"
        );
        return None;
    };
    let route = Route {
        link,
        destination: destination.unwrap_or(any),
        prefix: header.destination_prefix_length,
        gateway,
        connected: header.protocol == RouteProtocol::Kernel,
        on_link: header.flags.contains(RouteFlags::Onlink),
    };
    // The guest's own, like its link-local address.
    let link_local = matches!(route.destination, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (!link_local).then_some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// An address with its prefix where the host has a route to that network; with a full one where a plugin
/// took that route away (ptp does, and leads everything over the gateway).
fn guest_addresses(link: u32, addresses: &[Address], routes: &[Route]) -> Vec<String> {
    let mut texts = Vec::new();
    for address in addresses.iter().filter(|address| address.link == link) {
        let network = masked(address.ip, address.prefix);
        let connected = routes.iter().any(|route| {
            route.link == link
                && route.gateway.is_none()
                && route.prefix == address.prefix
                && route.destination == network
        });
        let prefix = if connected { address.prefix } else { full_prefix(address.ip) };
        texts.push(format!("{}/{prefix}", address.ip));
    }
    texts
}

/// All but what the guest's kernel makes itself with the addresses; gateways' own routes first.
fn guest_routes(links: &[Link], routes: &[Route]) -> Vec<GuestRoute> {
    let (mut direct, mut over_gateway) = (Vec::new(), Vec::new());
    for route in routes.iter().filter(|route| !route.connected) {
        let Some(link) = links.iter().find(|link| link.index == route.link) else { continue };
        let make = |destination: IpAddr, prefix: u8, gateway| GuestRoute {
            destination: format!("{destination}/{prefix}"),
            gateway,
            interface: link.name.clone(),
        };
        match route.gateway {
            None => direct.push(make(route.destination, route.prefix, None)),
            Some(gateway) => {
                let link_local = matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local());
                if route.on_link && !link_local {
                    direct.push(make(gateway, full_prefix(gateway), None));
                }
                over_gateway.push(make(route.destination, route.prefix, Some(gateway)));
            }
        }
    }
    direct.append(&mut over_gateway);
    direct.dedup();
    direct
}

fn full_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, prefix: u8, gateway: Option<&str>, connected: bool) -> Route {
        Route {
            link: 2,
            destination: destination.parse().unwrap(),
            prefix,
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            connected,
            on_link: false,
        }
    }

    fn eth0() -> Link {
        Link { index: 2, name: "eth0".into(), mac: String::new(), mtu: 1500, addresses: Vec::new() }
    }

    fn address(ip: &str, prefix: u8) -> Address {
        Address { link: 2, ip: ip.parse().unwrap(), prefix }
    }

    #[test]
    fn a_bridged_address_keeps_its_prefix_and_its_network_route_is_the_guests() {
        let routes = [route("0.0.0.0", 0, Some("10.88.0.1"), false), route("10.88.0.0", 16, None, true)];
        assert_eq!(guest_addresses(2, &[address("10.88.0.5", 16)], &routes), ["10.88.0.5/16"]);
        let given = guest_routes(&[eth0()], &routes);
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].destination, "0.0.0.0/0");
    }

    #[test]
    fn an_address_whose_network_route_was_removed_stands_alone() {
        let routes = [
            route("10.1.1.0", 24, Some("10.1.1.1"), false),
            route("10.1.1.1", 32, None, false),
            route("0.0.0.0", 0, Some("10.1.1.1"), false),
        ];
        assert_eq!(guest_addresses(2, &[address("10.1.1.5", 24)], &routes), ["10.1.1.5/32"]);
        let given = guest_routes(&[eth0()], &routes);
        let order: Vec<&str> = given.iter().map(|route| route.destination.as_str()).collect();
        assert_eq!(order, ["10.1.1.1/32", "10.1.1.0/24", "0.0.0.0/0"]);
    }

    #[test]
    fn an_on_link_gateway_gets_a_route() {
        let mut default = route("0.0.0.0", 0, Some("169.254.1.1"), false);
        default.on_link = true;
        let given = guest_routes(&[eth0()], &[default]);
        assert_eq!(given[0].destination, "169.254.1.1/32");
        assert_eq!(given[1].gateway, Some("169.254.1.1".parse().unwrap()));
    }

    #[test]
    fn masks() {
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 0).to_string(), "0.0.0.0");
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 32).to_string(), "10.1.2.3");
        assert_eq!(masked("fd00::1:2".parse().unwrap(), 64).to_string(), "fd00::");
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 200).to_string(), "10.1.2.3");
    }

    #[test]
    fn mac_is_written_in_the_usual_form() {
        assert_eq!(mac_text(&[2, 0x42, 0xac, 0x11, 0, 2]), "02:42:ac:11:00:02");
    }
}
