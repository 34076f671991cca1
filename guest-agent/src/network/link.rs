//! The links of a network namespace: the machine's devices among them, where they are and what they are set to.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage};
use nix::libc;

use super::netlink::{Kind, Netlink, attributes, string};
use super::wanted::Device;
use crate::error::{Error, Result};

/// The MAC address that a device has when the machine starts, but for its number.
const FIRST_MAC: [u8; 5] = [0x02, 0x76, 0x72, 0, 0];

/// The MTU that Ethernet devices start with.
const FIRST_MTU: u32 = 1500;

/// A device of the machine, as it is.
#[derive(Clone, Debug)]
pub struct Link {
    pub device: Device,
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub flags: LinkFlags,
}

/// The machine's devices in the namespace of a socket. The kernel remembers the first MAC address of each, whatever its
/// name, index and address have become.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut request = LinkMessage::default();
    request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    netlink
        .dump(Kind::GetLink, &request, |payload| links.extend(parse(payload)))
        .map_err(|refusal| refusal.of("list the network devices"))?;
    Ok(links)
}

fn parse(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    let mut first_mac = None;
    let mut link = Link {
        device: 0,
        index: header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        flags: header.flags,
    };
    for attribute in attributes(payload.get(size_of::<libc::ifinfomsg>()..)?) {
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_PERM_ADDRESS => first_mac = Some(value.to_owned()),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok()?,
            libc::IFLA_MTU => link.mtu = u32::from_ne_bytes(value.try_into().ok()?),
            libc::IFLA_IFNAME => link.name = string(value),
            _ => {}
        }
    }
    link.device = number(&first_mac?)?;
    Some(link)
}

fn number(first_mac: &[u8]) -> Option<Device> {
    let (number, rest) = first_mac.split_last()?;
    (rest == FIRST_MAC).then_some(*number)
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// Its name while it waits, which no other device has.
    pub fn waiting_name(&self) -> String {
        format!("device{}", self.device)
    }

    /// Changes its name, for which it must be down.
    pub fn rename(&mut self, netlink: &mut Netlink, name: &str) -> Result<()> {
        if self.is_up() {
            self.set_flags(netlink, LinkFlags::empty(), LinkFlags::Up)?;
        }
        let action = || format!("rename {} (network device {}) to {name}", self.name, self.device);
        set(
            netlink,
            self.index,
            vec![LinkAttribute::IfName(name.to_owned())],
            action,
        )?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    pub fn set_mac(&mut self, netlink: &mut Netlink, mac: [u8; 6]) -> Result<()> {
        let action = || format!("set the MAC address of {} to {}", self.name, mac_text(mac));
        set(netlink, self.index, vec![LinkAttribute::Address(mac.into())], action)?;
        self.mac = mac;
        Ok(())
    }

    pub fn set_mtu(&mut self, netlink: &mut Netlink, mtu: u32) -> Result<()> {
        let action = || format!("set the MTU of {} to {mtu}", self.name);
        set(netlink, self.index, vec![LinkAttribute::Mtu(mtu)], action)?;
        self.mtu = mtu;
        Ok(())
    }

    /// Sets the flags of a mask.
    pub fn set_flags(&mut self, netlink: &mut Netlink, flags: LinkFlags, mask: LinkFlags) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.header.flags = flags;
        message.header.change_mask = mask;
        netlink.ask(Kind::SetLink, 0, &message).map_err(|refusal| {
            let action = match (mask.contains(LinkFlags::Up), flags.contains(LinkFlags::Up)) {
                (true, true) => format!("bring up {}", self.name),
                (true, false) => format!("bring down {}", self.name),
                (false, _) => format!("set the flags of {}", self.name),
            };
            refusal.of(action)
        })?;
        self.flags = (self.flags - mask) | (flags & mask);
        Ok(())
    }

    /// Moves it, down, to another namespace, where it has this name. To keep the one that it has is cheaper: the kernel waits
    /// for all of its readers when a name changes.
    pub fn move_to(&self, netlink: &mut Netlink, namespace: BorrowedFd, name: &str) -> Result<()> {
        let mut attributes = vec![LinkAttribute::NetNsFd(namespace.as_raw_fd())];
        if name != self.name {
            attributes.push(LinkAttribute::IfName(name.to_owned()));
        }
        let action = || format!("move network device {} to its namespace as {name}", self.device);
        set(netlink, self.index, attributes, action)
    }

    /// Makes it what it was when the machine started.
    pub fn reset(&mut self, netlink: &mut Netlink) -> Result<()> {
        self.set_flags(netlink, LinkFlags::empty(), LinkFlags::Up | LinkFlags::Noarp)?;
        let [a, b, c, d, e] = FIRST_MAC;
        self.set_mac(netlink, [a, b, c, d, e, self.device])?;
        self.set_mtu(netlink, FIRST_MTU)
    }
}

fn set(
    netlink: &mut Netlink,
    index: u32,
    attributes: Vec<LinkAttribute>,
    action: impl FnOnce() -> String,
) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    netlink
        .ask(Kind::SetLink, 0, &message)
        .map_err(|refusal| refusal.of(action()))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// That there is no such device to be had.
pub fn missing(device: Device) -> Error {
    Error::FailedPrecondition(format!(
        "network device {device} is not to be had: the machine lacks it, or another container has it"
    ))
}
