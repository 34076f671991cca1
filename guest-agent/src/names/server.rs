//! A name server inside of a container's network, which asks the host.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::forwarder::{Forwarder, Place};
use super::message;

const MAX_CONNECTIONS: usize = 64;

/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(30);

/// The longest message.
const MAX_MESSAGE: usize = 65_535;

/// How often a port is looked for that is free for both, UDP and TCP.
const ATTEMPTS: usize = 16;

/// How long to wait when no connection can be accepted.
const RECOVERY: Duration = Duration::from_secs(1);

/// The sockets of a server that is to be; they belong to the network namespace in which they were opened.
pub struct Sockets {
    pub address: Ipv4Addr,
    pub port: u16,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them in this thread's network namespace, on a port that nobody uses.
    pub fn open(address: Ipv4Addr) -> io::Result<Self> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let udp = UdpSocket::bind((address, 0))?;
            let port = udp.local_addr()?.port();
            match TcpListener::bind((address, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < ATTEMPTS => {}
                tcp => {
                    return Ok(Self {
                        address,
                        port,
                        udp,
                        tcp: tcp?,
                    });
                }
            }
        }
    }
}

/// A server, until this is dropped.
pub struct Server {
    pub address: Ipv4Addr,
    pub port: u16,
    tasks: [AbortHandle; 2],
}

impl Server {
    /// Serves on these sockets.
    pub fn start(sockets: Sockets, forwarder: &Arc<Forwarder>) -> io::Result<Self> {
        let Sockets {
            address,
            port,
            udp,
            tcp,
        } = sockets;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let asking = Asking {
            name_server: address,
            forwarder: forwarder.clone(),
        };
        let udp = Arc::new(tokio::net::UdpSocket::from_std(udp)?);
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let tasks = [
            tokio::spawn(serve_datagrams(udp, asking.clone())).abort_handle(),
            tokio::spawn(serve_connections(tcp, asking)).abort_handle(),
        ];
        Ok(Self { address, port, tasks })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// The way to the host for those who ask this server.
#[derive(Clone)]
struct Asking {
    name_server: Ipv4Addr,
    forwarder: Arc<Forwarder>,
}

impl Asking {
    /// The answer for the asker; None if there is none.
    async fn ask(&self, query: Bytes, tcp: bool, place: Place) -> Option<Bytes> {
        let answer = self.forwarder.ask(query.clone(), tcp, self.name_server, place).await?;
        match answer.is_empty() {
            true => message::failure(&query).map(Into::into),
            false => Some(answer),
        }
    }
}

async fn serve_datagrams(socket: Arc<tokio::net::UdpSocket>, asking: Asking) {
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut queries = JoinSet::new();
    loop {
        let (length, asker) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => return crate::log::warning(&format!("a name server ends: {error}")),
            },
            Some(_) = queries.join_next() => continue,
        };
        let query = Bytes::copy_from_slice(&buffer[..length]);
        if !message::is_query(&query) {
            continue;
        }
        // Without a place it is lost, as datagrams may be: the asker will try again.
        if let Some(place) = asking.forwarder.place() {
            queries.spawn(answer_datagram(socket.clone(), asker, query, asking.clone(), place));
        }
    }
}

async fn answer_datagram(
    socket: Arc<tokio::net::UdpSocket>,
    asker: SocketAddr,
    query: Bytes,
    asking: Asking,
    place: Place,
) {
    let limit = message::udp_limit(&query);
    let answer = match asking.ask(query, false, place).await {
        Some(answer) if answer.len() > limit => message::truncated(&answer).map(Into::into),
        answer => answer,
    };
    if let Some(answer) = answer {
        // The asker may be gone, and a datagram may be lost.
        let _ = socket.send_to(&answer, asker).await;
    }
}

async fn serve_connections(listener: tokio::net::TcpListener, asking: Asking) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve_connection(stream, asking.clone()))),
                Err(error) => {
                    crate::log::warning(&format!("a name server cannot accept a connection: {error}"));
                    tokio::time::sleep(RECOVERY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one query after the other, until the asker closes, breaks the protocol or falls silent.
async fn serve_connection(mut stream: TcpStream, asking: Asking) {
    while let Ok(Ok(query)) = timeout(IDLE, receive(&mut stream)).await {
        if !message::is_query(&query) {
            return;
        }
        let place = asking.forwarder.wait_for_place().await;
        let Some(answer) = asking.ask(query, true, place).await else {
            return;
        };
        if !matches!(timeout(IDLE, send(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn receive(stream: &mut TcpStream) -> io::Result<Bytes> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message.into())
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
