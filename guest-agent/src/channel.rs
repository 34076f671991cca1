//! The way to the host: a virtio-serial port by default, a vsock if the kernel command line asks for it, a unix socket for
//! the agent's own tests. Whatever it is, it gives one byte stream after the other.
//!
//! A virtio-serial port is one stream for ever. The host's end opens and closes, which shows as a hang-up; what an earlier
//! host left in the queue stays. So a session begins where HTTP/2's preface is found, and what comes before is skipped.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket};
use nix::unistd::unlink;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::fd::{self, Watched};

/// Where the agent listens on vsock.
const VSOCK_PORT: u32 = 1024;

/// With which every HTTP/2 client begins (RFC 9113, section 3.4); chosen to appear nowhere else.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at once while looking for a preface.
const SCAN: usize = 4096;

/// The most that is read before a session begins; the rest is left to the session.
const MAX_AHEAD: usize = 1 << 20;

/// The most that a port takes with one write.
const MAX_WRITE: usize = 32 << 10;

/// A part of a write below this size is not worth a write by itself.
const MAX_SMALL: usize = 4 << 10;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4;

/// A kind of way to the host, and where it is.
pub enum Channel {
    Serial(PathBuf),
    Vsock,
    Unix(PathBuf),
}

/// Where connections of the host come from.
pub enum Connections {
    Port(File),
    Listener(Watched),
}

/// A connection of the host.
pub struct Connection {
    pub stream: Stream,
    /// There can be no other at the same time.
    pub exclusive: bool,
}

impl Connections {
    /// Opens the way to the host.
    pub fn open(channel: Channel) -> io::Result<Self> {
        let listener = match channel {
            Channel::Serial(path) => {
                let port = File::options()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .map_err(|error| explained(&path, error))?;
                return Ok(Self::Port(fd::not_blocking(port.into())?));
            }
            Channel::Vsock => {
                let socket = listening_socket(AddressFamily::Vsock)?;
                bind(
                    socket.as_raw_fd(),
                    &VsockAddr::new(nix::libc::VMADDR_CID_ANY, VSOCK_PORT),
                )?;
                socket
            }
            Channel::Unix(path) => {
                let socket = listening_socket(AddressFamily::Unix)?;
                let _ = unlink(&path);
                let address = nix::sys::socket::UnixAddr::new(&path)?;
                bind(socket.as_raw_fd(), &address).map_err(|error| explained(&path, error.into()))?;
                socket
            }
        };
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(Self::Listener(fd::watch(listener.into(), Interest::READABLE)?))
    }

    /// The next connection.
    pub async fn next(&mut self) -> io::Result<Connection> {
        match self {
            Self::Port(port) => Ok(Connection {
                stream: next_session(port).await?,
                exclusive: true,
            }),
            Self::Listener(listener) => {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let accept = |file: &File| Ok(accept4(file.as_raw_fd(), flags)?);
                let fd = listener.async_io(Interest::READABLE, accept).await?;
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
                Ok(Connection {
                    stream: Stream::new(fd.into(), false)?,
                    exclusive: false,
                })
            }
        }
    }
}

fn listening_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

fn explained(path: &std::path::Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
}

/// Waits for a host that begins to speak HTTP/2.
async fn next_session(port: &File) -> io::Result<Stream> {
    let mut ahead = BytesMut::new();
    loop {
        host_connected(port).await?;
        // Watched afresh: to the runtime, a hang-up is final.
        let mut stream = Stream::new(port.try_clone()?, true)?;
        if await_preface(&stream.file, &mut ahead).await? {
            stream.ahead = ahead;
            return Ok(stream);
        }
    }
}

/// Reads what is there, and more until it begins with a preface; false when the host hangs up before.
async fn await_preface(port: &Watched, ahead: &mut BytesMut) -> io::Result<bool> {
    loop {
        let mut ready = port.readable().await?;
        if ready.ready().is_read_closed() {
            return Ok(false);
        }
        // A host that went away unnoticed may have begun as well: the last one counts, so all is read that is there.
        while ahead.len() < MAX_AHEAD {
            ahead.reserve(SCAN);
            let limit = ahead.len() + SCAN;
            match ready.try_io(|port| fd::read_into(port.get_ref(), ahead, limit)) {
                Ok(Ok(0)) => return Ok(false),
                Ok(result) => drop(result?),
                Err(_would_block) => break,
            }
            skip_to_last(ahead, PREFACE);
        }
        if ahead.starts_with(PREFACE) {
            return Ok(true);
        }
    }
}

/// Drops what comes before the last place where the pattern is; without one, before where it may begin at the end.
fn skip_to_last(buffer: &mut BytesMut, pattern: &[u8]) {
    let found = buffer.windows(pattern.len()).rposition(|window| window == pattern);
    let begun = || {
        let earliest = buffer.len().saturating_sub(pattern.len() - 1);
        (earliest..buffer.len())
            .find(|start| pattern.starts_with(&buffer[*start..]))
            .unwrap_or(buffer.len())
    };
    let start = found.unwrap_or_else(begun);
    buffer.advance(start);
}

/// Waits until the host has opened its end of the port.
///
/// The port hangs up as long as it is closed, which the runtime would report again and again. So it is watched by an epoll
/// of its own, edge-triggered, which becomes readable when there is a change.
async fn host_connected(port: &File) -> io::Result<()> {
    let changes = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    changes.add(
        port,
        EpollEvent::new(EpollFlags::EPOLLET | EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, 0),
    )?;
    let changed = fd::watch(changes.0.try_clone()?.into(), Interest::READABLE)?;
    while hung_up(port)? {
        changed.readable().await?.clear_ready();
        changes.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)?;
    }
    Ok(())
}

fn hung_up(port: &File) -> io::Result<bool> {
    let mut state = [PollFd::new(port.as_fd(), PollFlags::empty())];
    poll(&mut state, PollTimeout::ZERO)?;
    Ok(state[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// One connection of the host.
pub struct Stream {
    file: Watched,
    /// A hang-up ends it, even if there is more to read or to be written: that is another host's.
    is_port: bool,
    /// Read already, while looking for the preface.
    ahead: BytesMut,
    /// Small parts of a write and what follows them, put together.
    joined: Vec<u8>,
}

impl Stream {
    fn new(file: File, is_port: bool) -> io::Result<Self> {
        Ok(Self {
            is_port,
            file: fd::watch(file, Interest::READABLE | Interest::WRITABLE)?,
            ahead: BytesMut::new(),
            joined: Vec::with_capacity(MAX_WRITE),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut ready = ready!(this.file.poll_read_ready(context))?;
            if this.is_port && ready.ready().is_read_closed() {
                return Poll::Ready(Ok(()));
            }
            if let Ok(result) = ready.try_io(|file| fill(file.get_ref(), buffer)) {
                return Poll::Ready(result);
            }
        }
    }
}

/// Reads until the buffer is full or nothing more is there: a port gives no more than a page at once.
fn fill(file: &File, buffer: &mut ReadBuf) -> io::Result<()> {
    let before = buffer.filled().len();
    while buffer.remaining() > 0 {
        // SAFETY: nothing is made uninitialised, for read(2) only writes.
        let length = match fd::read_uninitialised(file, unsafe { buffer.unfilled_mut() }) {
            Ok(0) => break,
            Ok(length) => length,
            // What it is will be met again by the next read.
            Err(_) if buffer.filled().len() > before => break,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel has written that many bytes there.
        unsafe { buffer.assume_init(length) };
        buffer.advance(length);
    }
    Ok(())
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.file.poll_write_ready(context))?;
            if ready.ready().is_write_closed() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if let Ok(result) = ready.try_io(|file| file.get_ref().write(data)) {
                return Poll::Ready(result);
            }
        }
    }

    /// Each write to a port is a message to QEMU by itself, and a vectored one would be as many as there are parts. So a
    /// small part, such as a frame's header, travels together with what follows it.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        parts: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        match parts.iter().find(|part| !part.is_empty()) {
            Some(first) if first.len() >= MAX_SMALL => self.poll_write(context, first),
            Some(_) => {
                let mut joined = std::mem::take(&mut self.joined);
                joined.clear();
                for part in parts {
                    let room = MAX_WRITE - joined.len();
                    joined.extend_from_slice(&part[..part.len().min(room)]);
                }
                let result = self.as_mut().poll_write(context, &joined);
                self.joined = joined;
                result
            }
            None => Poll::Ready(Ok(0)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// A write is with the kernel when it returns.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing the file is all that there is to do; a port has no half-close.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_last_preface_is_skipped() {
        let table: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"garbage", b""),
            (b"ab", b"ab"),
            (b"xxab", b"ab"),
            (b"abxabcd", b"abcd"),
            (b"ababc", b"abc"),
            (b"abcxabcy", b"abcy"),
            (b"abcxxab", b"abcxxab"),
        ];
        for (input, left) in table {
            let mut buffer = BytesMut::from(*input);
            skip_to_last(&mut buffer, b"abc");
            assert_eq!(&buffer[..], *left);
        }
    }
}
