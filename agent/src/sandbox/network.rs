//! The guest's interfaces and routes, as the host's side of the pod has them.

use std::fmt::Display;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use husk_proto::agent::{Interface, Route};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::error::{Context, Error, Result};

/// The most interfaces, addresses of one interface, and routes.
const MAX: usize = 256;

/// The longest name of an interface (`IFNAMSIZ` with its final zero).
const MAX_NAME: usize = 15;

/// Sets the interfaces up and adds the routes. Everything is checked before anything is changed.
pub async fn configure(interfaces: &[Interface], routes: &[Route]) -> Result<()> {
    if interfaces.len() > MAX || routes.len() > MAX {
        return Err(Error::Invalid(format!("more than {MAX} interfaces or routes")));
    }
    let wanted = interfaces.iter().map(Wanted::parse).collect::<Result<Vec<_>>>()?;
    let mut paths = routes.iter().map(Path::parse).collect::<Result<Vec<_>>>()?;
    for path in &paths {
        if !interfaces.iter().any(|interface| interface.name == path.route.interface) {
            return Err(Error::Invalid(format!("{path}: the interface is not one of the sandbox's")));
        }
    }
    // A gateway must be reachable when its route is added.
    paths.sort_by_key(|path| path.gateway.is_some());

    let (connection, netlink, _) = rtnetlink::new_connection().context(|| "opening netlink")?;
    let connection = tokio::spawn(connection);
    let result = apply(&netlink, &wanted, &paths).await;
    connection.abort();
    result
}

async fn apply(netlink: &Handle, wanted: &[Wanted<'_>], paths: &[Path<'_>]) -> Result<()> {
    let present: Vec<LinkMessage> =
        netlink.link().get().execute().try_collect().await.map_err(failed("listing interfaces"))?;
    let macs: Vec<&[u8]> = wanted.iter().map(|want| &want.mac[..]).collect();
    let cards: Vec<&LinkMessage> = present.iter().filter(|link| is_card(link)).collect();
    let places = places(&macs, &cards.iter().map(|link| mac_of(link)).collect::<Vec<_>>());
    let mut found = Vec::with_capacity(wanted.len());
    for (want, place) in wanted.iter().zip(places) {
        let link = place.and_then(|place| cards.get(place)).copied().ok_or_else(|| {
            Error::NotFound(format!("no interface of the guest has the MAC address {}", want.interface.mac))
        })?;
        if mac_of(link) != Some(&want.mac[..]) {
            give_address(netlink, link.header.index, want).await?;
        }
        found.push(link);
    }
    // Two interfaces may have each other's names: first away, then to the right one.
    let misnamed: Vec<_> = wanted
        .iter()
        .zip(&found)
        .filter(|(want, link)| name_of(link) != Some(want.interface.name.as_str()))
        .map(|(want, link)| (want.interface.name.as_str(), link.header.index))
        .collect();
    for (_, index) in &misnamed {
        rename(netlink, *index, &format!("husk{index}")).await?;
    }
    for (name, index) in &misnamed {
        rename(netlink, *index, name).await?;
    }
    for (want, link) in wanted.iter().zip(&found) {
        set_up(netlink, want, link.header.index).await?;
    }
    for link in present.iter().filter(|link| link.header.flags.contains(LinkFlags::Loopback)) {
        let up = LinkUnspec::new_with_index(link.header.index).up().build();
        netlink.link().set(up).execute().await.map_err(failed("setting the loopback interface up"))?;
    }
    for path in paths {
        for (_, link) in
            wanted.iter().zip(&found).filter(|(want, _)| want.interface.name == path.route.interface)
        {
            add_route(netlink, path, link.header.index).await?;
        }
    }
    Ok(())
}

/// Which of the interfaces with the addresses `present` is which of `wanted`: the one that has its address; of those that
/// are left, as in a clone, the first for the first.
fn places(wanted: &[&[u8]], present: &[Option<&[u8]>]) -> Vec<Option<usize>> {
    let mut places: Vec<Option<usize>> =
        wanted.iter().map(|mac| present.iter().position(|own| *own == Some(*mac))).collect();
    let mut left =
        (0..present.len()).filter(|place| !places.contains(&Some(*place))).collect::<Vec<_>>().into_iter();
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = left.next();
    }
    places
}

/// Whether there is a device behind it: the kernel makes up others, which tunnel.
fn is_card(link: &LinkMessage) -> bool {
    name_of(link)
        .is_some_and(|name| std::path::Path::new("/sys/class/net").join(name).join("device").exists())
}

async fn give_address(netlink: &Handle, index: u32, want: &Wanted<'_>) -> Result<()> {
    let mac = &want.interface.mac;
    let message = LinkUnspec::new_with_index(index).down().address(want.mac.to_vec()).build();
    netlink
        .link()
        .set(message)
        .execute()
        .await
        .map_err(failed(format!("giving interface {index} the address {mac}")))
}

async fn rename(netlink: &Handle, index: u32, name: &str) -> Result<()> {
    let message = LinkUnspec::new_with_index(index).down().name(name).build();
    netlink.link().set(message).execute().await.map_err(failed(format!("naming interface {index} {name}")))
}

async fn set_up(netlink: &Handle, want: &Wanted<'_>, index: u32) -> Result<()> {
    let name = &want.interface.name;
    // The host's network has seen to it that addresses are unique: an address is usable at once. Without IPv6
    // in the kernel there is nothing to switch off.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
    let mut message = LinkUnspec::new_with_index(index).up();
    if want.interface.mtu > 0 {
        message = message.mtu(want.interface.mtu);
    }
    netlink
        .link()
        .set(message.build())
        .execute()
        .await
        .map_err(failed(format!("setting {name} up with an MTU of {}", want.interface.mtu)))?;
    for (address, prefix) in &want.addresses {
        let mut request = netlink.address().add(index, *address, *prefix).replace();
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(failed(format!("adding {address}/{prefix} to {name}")))?;
    }
    Ok(())
}

async fn add_route(netlink: &Handle, path: &Path<'_>, index: u32) -> Result<()> {
    let (destination, prefix) = path.destination;
    let scope = if path.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let request = match (destination, path.gateway) {
        (IpAddr::V4(destination), gateway) => {
            let mut message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(destination, prefix)
                .output_interface(index)
                .scope(scope);
            if let Some(IpAddr::V4(gateway)) = gateway {
                // Gateways outside every connected network are common (169.254.1.1).
                message = message.gateway(gateway).onlink();
            }
            netlink.route().add(message.build())
        }
        (IpAddr::V6(destination), gateway) => {
            let mut message = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(destination, prefix)
                .output_interface(index);
            if let Some(IpAddr::V6(gateway)) = gateway {
                message = message.gateway(gateway).onlink();
            }
            netlink.route().add(message.build())
        }
    };
    request.replace().execute().await.map_err(failed(format!("adding {path}")))
}

fn failed(what: impl Display) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => {
            Error::Io { what: what.to_string(), source: message.to_io() }
        }
        other => Error::Internal(format!("{what}: {other}")),
    }
}

fn mac_of(link: &LinkMessage) -> Option<&[u8]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(mac.as_slice()),
        _ => None,
    })
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// An interface as it shall be.
struct Wanted<'a> {
    interface: &'a Interface,
    mac: [u8; 6],
    addresses: Vec<(IpAddr, u8)>,
}

impl<'a> Wanted<'a> {
    fn parse(interface: &'a Interface) -> Result<Self> {
        let name = &interface.name;
        let named = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
            && !matches!(name.as_str(), "." | ".." | "lo");
        if !named {
            return Err(Error::Invalid(format!("{name:?} cannot be the name of an interface")));
        }
        if interface.addresses.len() > MAX {
            return Err(Error::Invalid(format!("{name} has more than {MAX} addresses")));
        }
        let addresses = interface.addresses.iter().map(|text| cidr(text)).collect::<Result<_>>()?;
        Ok(Self { interface, mac: mac(&interface.mac)?, addresses })
    }
}

/// A route as it shall be.
struct Path<'a> {
    route: &'a Route,
    destination: (IpAddr, u8),
    gateway: Option<IpAddr>,
}

impl<'a> Path<'a> {
    fn parse(route: &'a Route) -> Result<Self> {
        let destination = cidr(&route.destination)?;
        let gateway = match route.gateway.as_str() {
            "" => None,
            text => Some(
                text.parse().map_err(|_| Error::Invalid(format!("gateway {text:?} is not an address")))?,
            ),
        };
        let path = Self { route, destination, gateway };
        if gateway.is_some_and(|gateway: IpAddr| gateway.is_ipv4() != destination.0.is_ipv4()) {
            return Err(Error::Invalid(format!("{path}: destination and gateway are of different families")));
        }
        Ok(path)
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "route {} via {:?} on {:?}",
            self.route.destination, self.route.gateway, self.route.interface
        )
    }
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| Error::Invalid(format!("{text:?} is not a MAC address like 02:42:ac:11:00:02")))?;
    }
    match parts.next() {
        None => Ok(mac),
        Some(_) => Err(Error::Invalid(format!("MAC address {text:?} is too long"))),
    }
}

fn cidr(text: &str) -> Result<(IpAddr, u8)> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
    });
    parsed.ok_or_else(|| Error::Invalid(format!("{text:?} is not a network address like 10.88.0.5/16")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_the_one_with_the_address_or_the_first_that_is_left() {
        let (a, b, c): (&[u8], &[u8], &[u8]) = (&[1], &[2], &[3]);
        assert_eq!(places(&[b, a], &[Some(a), Some(b)]), [Some(1), Some(0)]);
        assert_eq!(places(&[c, b], &[Some(a), Some(b)]), [Some(0), Some(1)]);
        assert_eq!(places(&[c, b], &[Some(a), None]), [Some(0), Some(1)]);
        assert_eq!(places(&[a, b], &[Some(a)]), [Some(0), None]);
    }

    #[test]
    fn addresses_are_parsed_and_nothing_else() {
        assert_eq!(cidr("10.88.0.5/16").unwrap(), ("10.88.0.5".parse().unwrap(), 16));
        assert_eq!(cidr("fd00::5/64").unwrap().1, 64);
        for bad in ["", "10.0.0.1", "10.0.0.1/33", "fd00::/129", "10.0.0/8", "x/8", "10.0.0.1/-1"] {
            assert!(cidr(bad).is_err(), "{bad:?}");
        }
        assert_eq!(mac("02:42:ac:11:00:0f").unwrap(), [2, 0x42, 0xac, 0x11, 0, 15]);
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "zz:42:ac:11:00:02",
            "+2:42:ac:11:00:02:",
        ] {
            assert!(mac(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interfaces_and_routes_are_checked() {
        let interface = |name: &str| Interface {
            name: name.into(),
            mac: "02:00:00:00:00:01".into(),
            ..Default::default()
        };
        assert!(Wanted::parse(&interface("eth0")).is_ok());
        for bad in ["", "lo", "..", "a/b", "sixteen_letters_", "a b", "a%d"] {
            assert!(Wanted::parse(&interface(bad)).is_err(), "{bad:?}");
        }
        let route = |destination: &str, gateway: &str| Route {
            destination: destination.into(),
            gateway: gateway.into(),
            interface: "eth0".into(),
        };
        assert!(Path::parse(&route("0.0.0.0/0", "10.0.0.1")).is_ok());
        assert!(Path::parse(&route("10.0.0.0/8", "")).is_ok());
        assert!(Path::parse(&route("0.0.0.0/0", "fd00::1")).is_err());
        assert!(Path::parse(&route("0.0.0.0/0", "gw")).is_err());
    }
}
