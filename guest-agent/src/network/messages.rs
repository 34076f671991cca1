//! rtnetlink's messages for addresses, routes and neighbours.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType};

use super::wanted::{Address, Neighbour, Route};

/// The kernel's own address of a link gets the route of its prefix; for the others all routes are given. That nobody
/// else has an address is known from the host's, so that nothing need be awaited.
pub fn address(address: &Address, index: u32) -> AddressMessage {
    let mut flags = AddressFlags::Nodad;
    if !address.is_link_local() {
        flags |= AddressFlags::Noprefixroute;
    }
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(address.address),
        prefix_len: address.prefix_length,
        flags: AddressHeaderFlags::empty(),
        scope: address.scope.into(),
        index,
    };
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.peer.unwrap_or(address.address)),
        AddressAttribute::Flags(flags),
    ];
    message
        .attributes
        .extend(address.broadcast.map(AddressAttribute::Broadcast));
    message
}

/// `index`: of the link that the route leads over.
pub fn route(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.destination);
    header.destination_prefix_length = route.prefix_length;
    header.protocol = route.protocol.into();
    header.scope = route.scope.into();
    header.kind = RouteType::from(route.kind);
    if route.on_link {
        header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.prefix_length > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.into()));
    }
    attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    attributes.extend(index.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if route.mtu > 0 {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)]));
    }
    message
}

pub fn neighbour(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let address = match neighbour.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(address),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.into()),
    ];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
