//! The kernel's rtnetlink, for the network namespace of the thread that opens it.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;

use crate::error::{Error, Result};
use crate::init::failure::text;

/// More than any of the kernel's datagrams.
const RECEIVE_BUFFER: usize = 64 << 10;

/// The requests, by the kernel's names.
#[derive(Clone, Copy)]
#[repr(u16)]
pub enum Kind {
    GetLink = libc::RTM_GETLINK,
    SetLink = libc::RTM_SETLINK,
    NewAddress = libc::RTM_NEWADDR,
    DelAddress = libc::RTM_DELADDR,
    NewRoute = libc::RTM_NEWROUTE,
    DelRoute = libc::RTM_DELROUTE,
    NewNeighbour = libc::RTM_NEWNEIGH,
    DelNeighbour = libc::RTM_DELNEIGH,
}

/// Why the kernel refuses.
#[derive(Debug)]
pub struct Refusal {
    pub errno: Errno,
    /// The kernel's own words, if it has any.
    words: Option<String>,
}

impl Refusal {
    /// An error that says what failed.
    pub fn of(self, action: impl std::fmt::Display) -> Error {
        match self.words {
            Some(words) => Error::kernel(action, format!("{} ({words})", text(self.errno))),
            None => Error::kernel(action, text(self.errno)),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPROTO)),
            words: None,
        }
    }
}

/// A socket to it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one in this thread's network namespace, to which it belongs from then on.
    pub fn open() -> Result<Self> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            Ok(socket)
        };
        let opened: io::Result<Socket> = open();
        Ok(Self {
            socket: opened.map_err(|error| Error::kernel("open a netlink socket", error))?,
            sequence: 0,
        })
    }

    /// Has a request carried out.
    pub fn ask(&mut self, kind: Kind, flags: u16, body: &impl Emitable) -> std::result::Result<(), Refusal> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        self.receive(|_| {})
    }

    /// Lists objects: each answer's payload.
    pub fn dump(
        &mut self,
        kind: Kind,
        body: &impl Emitable,
        each: impl FnMut(&[u8]),
    ) -> std::result::Result<(), Refusal> {
        self.send(kind, NLM_F_DUMP, body)?;
        self.receive(each)
    }

    fn send(&mut self, kind: Kind, flags: u16, body: &impl Emitable) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Outgoing { kind, body }));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0).map(drop)
    }

    /// Follows the answers to the last request, to the one that ends them.
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> std::result::Result<(), Refusal> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<Incoming>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match message.payload {
                    // An answer to a request that was given up.
                    _ if message.header.sequence_number != self.sequence => {}
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        let Some(code) = error.code else { return Ok(()) };
                        let explained = message.header.flags & NLM_F_ACK_TLVS != 0;
                        return Err(Refusal {
                            errno: Errno::from_raw(code.get().saturating_neg()),
                            words: explained.then(|| words(&error.header)).flatten(),
                        });
                    }
                    NetlinkPayload::InnerMessage(Incoming(payload)) => each(&payload),
                    _ => {}
                }
            }
        }
    }
}

/// The kernel's explanation, behind the header of the request that it refuses.
fn words(refused: &[u8]) -> Option<String> {
    const MESSAGE: u16 = 1;
    attributes(refused.get(size_of::<libc::nlmsghdr>()..)?)
        .find(|attribute| attribute.kind() == MESSAGE)
        .map(|attribute| string(attribute.value()))
}

/// The attributes of an object.
pub fn attributes(data: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(data).map_while(|attribute| attribute.ok())
}

/// A string as the kernel ends it.
pub fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

struct Outgoing<'a, T> {
    kind: Kind,
    body: &'a T,
}

impl<T: Emitable> NetlinkSerializable for Outgoing<'_, T> {
    fn message_type(&self) -> u16 {
        self.kind as u16
    }

    fn buffer_len(&self) -> usize {
        self.body.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.body.emit(buffer);
    }
}

/// An object that the kernel lists, as it stands.
struct Incoming(Vec<u8>);

impl NetlinkDeserializable for Incoming {
    type Error = std::convert::Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> std::result::Result<Self, Self::Error> {
        Ok(Self(payload.to_vec()))
    }
}
