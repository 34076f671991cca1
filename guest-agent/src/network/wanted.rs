//! The network that the host wants a container to have.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub interfaces: Vec<Interface>,
    /// In the order in which they can be added.
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    /// Of which port 53 is served.
    pub name_servers: Vec<Ipv4Addr>,
}

/// One of the machine's network devices, by the number in its first MAC address.
pub type Device = u8;

/// A network device as the container is to see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    pub device: Device,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub up: bool,
    pub no_arp: bool,
    pub addresses: Vec<Address>,
    /// Values of /proc/sys/net/ipv6/conf/NAME.
    pub ipv6_settings: BTreeMap<String, i32>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub address: IpAddr,
    pub prefix_length: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub broadcast: Option<Ipv4Addr>,
    pub scope: u8,
}

/// What a route leads over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    Device(Device),
    Loopback,
}

/// A route; the numbers are rtnetlink's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Unspecified, with no prefix: the default.
    pub destination: IpAddr,
    pub prefix_length: u8,
    pub gateway: Option<IpAddr>,
    /// None where it leads nowhere (unreachable, blackhole, prohibit).
    pub over: Option<Over>,
    pub source: Option<IpAddr>,
    pub metric: u32,
    pub table: u32,
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
    pub on_link: bool,
    pub mtu: u32,
}

/// A neighbour whose MAC address does not change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    pub device: Device,
    pub address: IpAddr,
    pub mac: [u8; 6],
}

impl Network {
    /// Every address, with the device that it is on.
    pub fn addresses(&self) -> impl Iterator<Item = (Device, Address)> {
        self.interfaces.iter().flat_map(|interface| {
            let addresses = interface.addresses.iter();
            addresses.map(|address| (interface.device, address.clone()))
        })
    }
}

impl Address {
    /// The kernel makes these itself, with the route of their prefix.
    pub fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}", self.address)?;
        if let Some(peer) = self.peer {
            write!(formatter, " peer {peer}")?;
        }
        write!(formatter, "/{}", self.prefix_length)
    }
}

impl Route {
    /// The address that stands for all of a family.
    pub fn any(ipv6: bool) -> IpAddr {
        match ipv6 {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    fn is_default(&self) -> bool {
        self.prefix_length == 0
    }
}

/// As `ip route` writes it, but for the interface.
impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self.kind {
            6 => formatter.write_str("blackhole ")?,
            7 => formatter.write_str("unreachable ")?,
            8 => formatter.write_str("prohibit ")?,
            _ => {}
        }
        match (self.is_default(), self.destination) {
            (true, IpAddr::V4(_)) => formatter.write_str("default")?,
            (true, IpAddr::V6(_)) => formatter.write_str("default (IPv6)")?,
            (false, destination) => write!(formatter, "{destination}/{}", self.prefix_length)?,
        }
        match self.gateway {
            Some(gateway) => write!(formatter, " via {gateway}"),
            None => Ok(()),
        }
    }
}
