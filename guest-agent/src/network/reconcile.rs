//! Brings a network namespace to what is wanted: first what is no longer wanted goes, then the devices come, then what is
//! on them, each after what it needs.

use std::collections::HashSet;
use std::fs;
use std::hash::Hash;
use std::os::fd::BorrowedFd;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::LinkFlags;
use nix::errno::Errno;

use super::link::{self, Link};
use super::messages;
use super::netlink::{Kind, Netlink, Refusal};
use super::wanted::{Address, Device, Interface, Neighbour, Network, Over, Route};
use crate::error::{Error, Result};

/// The index of the loopback interface in each network namespace.
const LOOPBACK: u32 = 1;

/// What has been set so far, and not by the container itself.
#[derive(Default)]
pub struct Set {
    devices: HashSet<Device>,
    addresses: HashSet<(Device, Address)>,
    routes: HashSet<Route>,
    neighbours: HashSet<Neighbour>,
}

impl Set {
    fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.routes.is_empty()
    }
}

/// The work in one namespace, done in a thread that is in it.
pub struct Work<'a> {
    /// Where the devices wait.
    pub outside: Netlink,
    pub outer: BorrowedFd<'a>,
    pub inside: Netlink,
    pub inner: BorrowedFd<'a>,
    pub set: &'a mut Set,
}

impl Work<'_> {
    /// All of it. When it fails, what has been done stays, and is known.
    pub fn bring_to(&mut self, wanted: &Network) -> Result<()> {
        self.take_back(wanted)?;
        let mut links = self.provide(&wanted.interfaces)?;
        for interface in &wanted.interfaces {
            let link = found(&mut links, interface.device)?;
            self.set_link(link, interface)?;
        }
        for interface in &wanted.interfaces {
            let link = found(&mut links, interface.device)?;
            for address in &interface.addresses {
                self.add_address(link, address)?;
            }
        }
        for route in &wanted.routes {
            self.add_route(&links, route)?;
        }
        for neighbour in &wanted.neighbours {
            self.add_neighbour(found(&mut links, neighbour.device)?, neighbour)?;
        }
        Ok(())
    }

    /// Removes what is set and not wanted.
    fn take_back(&mut self, wanted: &Network) -> Result<()> {
        let links = match self.set.is_empty() {
            true => return Ok(()),
            false => self.links()?,
        };
        let there = |device: Device| links.iter().find(|link| link.device == device);
        for neighbour in obsolete(&mut self.set.neighbours, &wanted.neighbours) {
            if let Some(link) = there(neighbour.device) {
                let message = messages::neighbour(&neighbour, link.index);
                let result = self.inside.ask(Kind::DelNeighbour, 0, &message);
                unless_gone(result).map_err(|refusal| refusal.of(format!("remove {}", named(&neighbour, link))))?;
            }
        }
        for route in obsolete(&mut self.set.routes, &wanted.routes) {
            let (index, over) = leads_over(&links, &route);
            let result = self.inside.ask(Kind::DelRoute, 0, &messages::route(&route, index));
            unless_gone(result).map_err(|refusal| refusal.of(format!("remove route {route}{over}")))?;
        }
        let addresses: Vec<_> = wanted.addresses().collect();
        for (device, address) in obsolete(&mut self.set.addresses, &addresses) {
            if let Some(link) = there(device) {
                let message = messages::address(&address, link.index);
                let result = self.inside.ask(Kind::DelAddress, 0, &message);
                unless_gone(result).map_err(|refusal| refusal.of(format!("remove {address} from {}", link.name)))?;
            }
        }
        let devices: Vec<_> = wanted.interfaces.iter().map(|interface| interface.device).collect();
        for mut link in links {
            if !devices.contains(&link.device) {
                self.give_back(&mut link)?;
            }
        }
        Ok(())
    }

    /// Gives a device back to those that wait.
    fn give_back(&mut self, link: &mut Link) -> Result<()> {
        link.reset(&mut self.inside)?;
        let waiting = link::list(&mut self.outside)?;
        let name = match waiting.iter().any(|other| other.name == link.name) {
            true => link.waiting_name(),
            false => link.name.clone(),
        };
        link.move_to(&mut self.inside, self.outer, &name)?;
        self.set.devices.remove(&link.device);
        Ok(())
    }

    /// Gives all devices back.
    pub fn give_all_back(&mut self) -> Result<()> {
        self.links()?.iter_mut().try_for_each(|link| self.give_back(link))
    }

    /// Sees to it that the devices of these interfaces are here, and none has the name of another.
    fn provide(&mut self, interfaces: &[Interface]) -> Result<Vec<Link>> {
        if interfaces.is_empty() {
            return Ok(Vec::new());
        }
        let mut links = if self.set.devices.is_empty() {
            Vec::new()
        } else {
            self.links()?
        };
        for link in &mut links {
            if interfaces
                .iter()
                .any(|other| other.name == link.name && other.device != link.device)
            {
                let name = link.waiting_name();
                link.rename(&mut self.inside, &name)?;
            }
        }
        let missing = |interface: &&Interface| !links.iter().any(|link| link.device == interface.device);
        let missing: Vec<&Interface> = interfaces.iter().filter(missing).collect();
        if missing.is_empty() {
            return Ok(links);
        }
        let mut waiting = link::list(&mut self.outside)?;
        for interface in missing {
            let link = found(&mut waiting, interface.device)?;
            link.move_to(&mut self.outside, self.inner, &interface.name)?;
            self.set.devices.insert(interface.device);
        }
        self.links()
    }

    fn links(&mut self) -> Result<Vec<Link>> {
        link::list(&mut self.inside)
    }

    /// Sets the interface itself; what is so already is left alone.
    fn set_link(&mut self, link: &mut Link, wanted: &Interface) -> Result<()> {
        if link.name != wanted.name {
            link.rename(&mut self.inside, &wanted.name)?;
        }
        if link.mac != wanted.mac {
            link.set_mac(&mut self.inside, wanted.mac)?;
        }
        if link.mtu != wanted.mtu {
            link.set_mtu(&mut self.inside, wanted.mtu)?;
        }
        for (key, value) in &wanted.ipv6_settings {
            // /proc/sys/net is that of the namespace of the thread.
            let path = format!("/proc/sys/net/ipv6/conf/{}/{key}", wanted.name);
            fs::write(&path, value.to_string())
                .map_err(|error| Error::kernel(format!("write {value} to {path}"), error))?;
        }
        let mut flags = LinkFlags::empty();
        flags.set(LinkFlags::Up, wanted.up);
        flags.set(LinkFlags::Noarp, wanted.no_arp);
        let changed = (link.flags ^ flags) & (LinkFlags::Up | LinkFlags::Noarp);
        match changed.is_empty() {
            true => Ok(()),
            false => link.set_flags(&mut self.inside, flags, changed),
        }
    }

    fn add_address(&mut self, link: &Link, address: &Address) -> Result<()> {
        let message = messages::address(address, link.index);
        self.inside
            .ask(Kind::NewAddress, NLM_F_CREATE | NLM_F_REPLACE, &message)
            .map_err(|refusal| refusal.of(format!("add address {address} to {}", link.name)))?;
        self.set.addresses.insert((link.device, address.clone()));
        Ok(())
    }

    /// Appends it: to replace could strike another route to the same destination.
    fn add_route(&mut self, links: &[Link], route: &Route) -> Result<()> {
        let (index, over) = leads_over(links, route);
        let message = messages::route(route, index);
        let result = self.inside.ask(Kind::NewRoute, NLM_F_CREATE | NLM_F_APPEND, &message);
        match result {
            Err(refusal) if refusal.errno != Errno::EEXIST => Err(refusal.of(format!("add route {route}{over}"))),
            _ => {
                self.set.routes.insert(route.clone());
                Ok(())
            }
        }
    }

    fn add_neighbour(&mut self, link: &Link, neighbour: &Neighbour) -> Result<()> {
        let message = messages::neighbour(neighbour, link.index);
        self.inside
            .ask(Kind::NewNeighbour, NLM_F_CREATE | NLM_F_REPLACE, &message)
            .map_err(|refusal| refusal.of(format!("add {}", named(neighbour, link))))?;
        self.set.neighbours.insert(neighbour.clone());
        Ok(())
    }
}

fn found(links: &mut [Link], device: Device) -> Result<&mut Link> {
    let mut matching = links.iter_mut().filter(|link| link.device == device);
    matching.next().ok_or_else(|| link::missing(device))
}

fn named(neighbour: &Neighbour, link: &Link) -> String {
    format!("neighbour {} dev {}", neighbour.address, link.name)
}

/// The index of the link that a route leads over, and how that is said.
fn leads_over(links: &[Link], route: &Route) -> (Option<u32>, String) {
    match route.over {
        None => (None, String::new()),
        Some(Over::Loopback) => (Some(LOOPBACK), " dev lo".to_owned()),
        Some(Over::Device(device)) => match links.iter().find(|link| link.device == device) {
            Some(link) => (Some(link.index), format!(" dev {}", link.name)),
            None => (None, format!(" dev {device}")),
        },
    }
}

/// Takes out of what is set that which is not wanted.
fn obsolete<T: Hash + Eq>(set: &mut HashSet<T>, wanted: &[T]) -> Vec<T> {
    let wanted: HashSet<&T> = wanted.iter().collect();
    set.extract_if(|one| !wanted.contains(one)).collect()
}

/// The container, or the kernel with something else, may have removed it already.
fn unless_gone(result: std::result::Result<(), Refusal>) -> std::result::Result<(), Refusal> {
    match result {
        Err(refusal)
            if matches!(
                refusal.errno,
                Errno::ESRCH | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::ENODEV
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}
