//! The network of a request: every part is checked before any of it is set.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::proto;
use crate::error::{Error, Result};
use crate::network::wanted::{Address, Device, Interface, Neighbour, Network, Over, Route};

/// Bounds of the interface.
const MAX_INTERFACES: usize = 16;
const MAX_ROUTES: usize = 4096;
const MAX_NEIGHBOURS: usize = 4096;
const MAX_NAME_SERVERS: usize = 3;
const MAX_ADDRESSES: usize = 256;
const MAX_SETTINGS: usize = 16;

/// The kernel's, for a name with its end, and for the MTU of an Ethernet device.
const MAX_NAME: usize = 15;
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// rtnetlink's types of routes.
const UNICAST: u32 = 1;
const BLACKHOLE: u32 = 6;
const THROW: u32 = 9;

/// What the host wants, if it is valid; without any wish nothing.
pub fn network(network: Option<proto::Network>) -> Result<Network> {
    let network = network.unwrap_or_default();
    at_most(MAX_INTERFACES, "interfaces", network.interfaces.len())?;
    at_most(MAX_ROUTES, "routes", network.routes.len())?;
    at_most(MAX_NEIGHBOURS, "neighbours", network.neighbours.len())?;
    at_most(MAX_NAME_SERVERS, "name_servers", network.name_servers.len())?;
    let interfaces: Vec<Interface> = each("interfaces", network.interfaces, interface)?;
    unique(
        "interfaces: device",
        interfaces.iter().map(|interface| interface.device),
    )?;
    unique("interfaces: name", interfaces.iter().map(|interface| &interface.name))?;
    let routes = each("routes", network.routes, |one| route(one, &interfaces))?;
    let neighbours = each("neighbours", network.neighbours, |one| neighbour(one, &interfaces))?;
    let name_servers = each("name_servers", network.name_servers, |one| name_server(&one))?;
    unique("name_servers", name_servers.iter())?;
    Ok(Network {
        interfaces,
        routes,
        neighbours,
        name_servers,
    })
}

fn interface(interface: proto::Interface) -> Result<Interface> {
    check_name(&interface.name)?;
    at_most(MAX_ADDRESSES, "addresses", interface.addresses.len())?;
    at_most(MAX_SETTINGS, "ipv6_settings", interface.ipv6_settings.len())?;
    for key in interface.ipv6_settings.keys() {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        require(!key.is_empty() && key.bytes().all(plain), || {
            format!("ipv6_settings: {key:?} is none")
        })?;
    }
    require(MTU.contains(&interface.mtu), || {
        format!(
            "mtu: {} is not between {} and {}",
            interface.mtu,
            MTU.start(),
            MTU.end()
        )
    })?;
    Ok(Interface {
        device: byte("device", interface.device)?,
        name: interface.name,
        mac: mac(&interface.mac)?,
        mtu: interface.mtu,
        up: interface.up,
        no_arp: interface.no_arp,
        addresses: each("addresses", interface.addresses, address)?,
        ipv6_settings: interface.ipv6_settings.into_iter().collect(),
    })
}

/// As the kernel, which takes what has a `%` for a pattern of names. That lo is not to be had.
fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte > b' ' && !b"/:%".contains(&byte);
    let valid = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
    require(valid && ![".", "..", "lo", "all", "default"].contains(&name), || {
        format!("name: {name:?} is not one for a network device")
    })
}

fn address(address: proto::Address) -> Result<Address> {
    let own = ip("address", &address.address)?;
    let peer = optional_ip("peer", &address.peer)?;
    same_family("peer", own, peer)?;
    let broadcast = match optional_ip("broadcast", &address.broadcast)? {
        None => None,
        Some(IpAddr::V4(broadcast)) if own.is_ipv4() => Some(broadcast),
        Some(_) => return Err(invalid("broadcast: is for IPv4 alone".to_owned())),
    };
    Ok(Address {
        address: own,
        prefix_length: prefix_length(own, address.prefix_length)?,
        peer,
        broadcast,
        scope: byte("scope", address.scope)?,
    })
}

fn route(route: proto::Route, interfaces: &[Interface]) -> Result<Route> {
    let gateway = optional_ip("gateway", &route.gateway)?;
    let source = optional_ip("source", &route.source)?;
    let destination = optional_ip("destination", &route.destination)?;
    require(destination.is_some() || route.prefix_length == 0, || {
        format!("prefix_length: is {} without a destination", route.prefix_length)
    })?;
    let destination = destination
        .or_else(|| gateway.or(source).map(|address| Route::any(address.is_ipv6())))
        .unwrap_or_else(|| Route::any(route.ipv6));
    same_family("gateway", destination, gateway)?;
    same_family("source", destination, source)?;
    require((UNICAST..=THROW).contains(&route.r#type), || {
        format!("type: there is no {}", route.r#type)
    })?;
    require(route.table != 0, || "table: is 0".to_owned())?;
    Ok(Route {
        destination,
        prefix_length: prefix_length(destination, route.prefix_length)?,
        gateway,
        over: leads_over(&route, interfaces)?,
        source,
        metric: route.metric,
        table: route.table,
        protocol: byte("protocol", route.protocol)?,
        scope: byte("scope", route.scope)?,
        kind: byte("type", route.r#type)?,
        on_link: route.on_link,
        mtu: route.mtu,
    })
}

/// A route that leads nowhere has no interface, though for IPv6 the kernel shows lo.
fn leads_over(route: &proto::Route, interfaces: &[Interface]) -> Result<Option<Over>> {
    let nowhere = route.r#type >= BLACKHOLE;
    match &*route.interface {
        "" if nowhere => Ok(None),
        "" => Err(invalid("interface: is missing".to_owned())),
        "lo" if nowhere => Ok(None),
        "lo" => Ok(Some(Over::Loopback)),
        name if nowhere => Err(invalid(format!(
            "interface: a route of type {} has none, not {name:?}",
            route.r#type
        ))),
        name => Ok(Some(Over::Device(device_of(name, interfaces)?))),
    }
}

fn neighbour(neighbour: proto::Neighbour, interfaces: &[Interface]) -> Result<Neighbour> {
    Ok(Neighbour {
        device: device_of(&neighbour.interface, interfaces)?,
        address: ip("address", &neighbour.address)?,
        mac: bytes("mac", &neighbour.mac)?,
    })
}

fn name_server(address: &[u8]) -> Result<Ipv4Addr> {
    let address = Ipv4Addr::from(bytes::<4>("IPv4 address", address)?);
    require(address.is_loopback(), || format!("{address} is not a loopback address"))?;
    Ok(address)
}

fn device_of(name: &str, interfaces: &[Interface]) -> Result<Device> {
    let mut named = interfaces.iter().filter(|interface| interface.name == name);
    let interface = named.next();
    interface
        .map(|interface| interface.device)
        .ok_or_else(|| invalid(format!("interface: there is no {name:?} among the interfaces")))
}

fn prefix_length(address: IpAddr, length: u32) -> Result<u8> {
    let most = if address.is_ipv4() { 32 } else { 128 };
    require(length <= most, || {
        format!("prefix_length: {length} is more than {most}")
    })?;
    byte("prefix_length", length)
}

fn same_family(what: &str, one: IpAddr, other: Option<IpAddr>) -> Result<()> {
    require(other.is_none_or(|other| other.is_ipv4() == one.is_ipv4()), || {
        format!("{what}: is of another family than {one}")
    })
}

fn optional_ip(what: &str, address: &[u8]) -> Result<Option<IpAddr>> {
    match address {
        [] => Ok(None),
        address => ip(what, address).map(Some),
    }
}

fn ip(what: &str, address: &[u8]) -> Result<IpAddr> {
    match address.len() {
        4 => Ok(Ipv4Addr::from(bytes::<4>(what, address)?).into()),
        16 => Ok(Ipv6Addr::from(bytes::<16>(what, address)?).into()),
        length => Err(invalid(format!("{what}: an address has 4 or 16 bytes, not {length}"))),
    }
}

/// One that a network device can have.
fn mac(address: &[u8]) -> Result<[u8; 6]> {
    let address: [u8; 6] = bytes("mac", address)?;
    require(address != [0; 6] && address[0] & 1 == 0, || {
        "mac: is not that of one device".to_owned()
    })?;
    Ok(address)
}

fn bytes<const LENGTH: usize>(what: &str, data: &[u8]) -> Result<[u8; LENGTH]> {
    data.try_into()
        .map_err(|_| invalid(format!("{what}: has {LENGTH} bytes, not {}", data.len())))
}

fn byte(what: &str, number: u32) -> Result<u8> {
    u8::try_from(number).map_err(|_| invalid(format!("{what}: {number} is more than 255")))
}

fn at_most(most: usize, what: &str, count: usize) -> Result<()> {
    require(count <= most, || format!("{what}: {count} are more than {most}"))
}

fn unique<T: Eq + std::hash::Hash + std::fmt::Debug>(what: &str, mut all: impl Iterator<Item = T>) -> Result<()> {
    let mut seen = HashSet::new();
    match all.find_map(|one| seen.replace(one)) {
        None => Ok(()),
        Some(twice) => Err(invalid(format!("{what}: {twice:?} is there twice"))),
    }
}

/// Converts each of a list; an error says which.
fn each<From, To>(what: &str, list: Vec<From>, mut convert: impl FnMut(From) -> Result<To>) -> Result<Vec<To>> {
    let numbered = list.into_iter().enumerate();
    numbered
        .map(|(number, one)| {
            convert(one).map_err(|error| match error {
                Error::InvalidArgument(message) => invalid(format!("{what}[{number}]: {message}")),
                error => error,
            })
        })
        .collect()
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(invalid(message())),
    }
}

fn invalid(message: String) -> Error {
    Error::InvalidArgument(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth0() -> proto::Interface {
        proto::Interface {
            name: "eth0".into(),
            mac: vec![2, 0, 0, 0, 0, 1].into(),
            mtu: 1500,
            ..proto::Interface::default()
        }
    }

    fn with_route(change: impl FnOnce(&mut proto::Route)) -> Result<Route> {
        let mut route = proto::Route {
            interface: "eth0".into(),
            table: 254,
            r#type: UNICAST,
            ..proto::Route::default()
        };
        change(&mut route);
        let wanted = network(Some(proto::Network {
            interfaces: vec![eth0()],
            routes: vec![route],
            ..proto::Network::default()
        }));
        wanted.map(|mut network| network.routes.remove(0))
    }

    #[test]
    fn a_default_route_is_of_the_family_of_its_gateway_its_source_or_as_it_says() {
        let shown = |change: fn(&mut proto::Route)| with_route(change).unwrap().to_string();
        let six = Ipv6Addr::LOCALHOST.octets();
        assert_eq!(shown(|_| {}), "default");
        assert_eq!(shown(|route| route.ipv6 = true), "default (IPv6)");
        assert_eq!(
            shown(|route| route.gateway = vec![10, 0, 0, 1].into()),
            "default via 10.0.0.1"
        );
        assert!(
            with_route(|route| route.source = six.to_vec().into())
                .unwrap()
                .destination
                .is_ipv6()
        );
        with_route(|route| {
            route.gateway = vec![10, 0, 0, 1].into();
            route.source = six.to_vec().into();
        })
        .expect_err("two families");
    }

    #[test]
    fn a_route_leads_over_an_interface_that_is_there_or_nowhere() {
        let over = |name: &str, kind: u32| {
            let route = with_route(|route| {
                route.interface = name.into();
                route.r#type = kind;
            });
            route.map(|route| route.over).map_err(|error| format!("{error:?}"))
        };
        assert_eq!(over("eth0", UNICAST), Ok(Some(Over::Device(0))));
        assert_eq!(over("lo", UNICAST), Ok(Some(Over::Loopback)));
        assert_eq!((over("", BLACKHOLE), over("lo", THROW)), (Ok(None), Ok(None)));
        for (name, kind) in [("", UNICAST), ("eth1", UNICAST), ("eth0", BLACKHOLE), ("", THROW + 1)] {
            over(name, kind).expect_err(name);
        }
    }

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for name in ["eth0", "a", "0123456789abcde", "net-1.2_3@x", "é"] {
            check_name(name).expect(name);
        }
        for name in [
            "",
            ".",
            "..",
            "lo",
            "all",
            "a b",
            "a/b",
            "a:b",
            "a\tb",
            "eth%d",
            "0123456789abcdef",
        ] {
            check_name(name).expect_err(name);
        }
    }
}
