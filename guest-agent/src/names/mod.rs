//! The name servers of a network: served inside of it, answered by the host.
//!
//! A process asks port 53; [`redirection`] leads it to a [`server`], and that by the [`forwarder`] to the host.

pub mod forwarder;
mod message;
mod redirection;
mod server;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use forwarder::Forwarder;
use redirection::Redirection;
use server::Server;
pub use server::Sockets;

/// Those of one network.
pub struct Names {
    forwarder: Arc<Forwarder>,
    /// The control group of the processes that are redirected.
    cgroup: PathBuf,
    served: Mutex<Served>,
}

#[derive(Default)]
struct Served {
    servers: Vec<Server>,
    redirection: Option<Redirection>,
}

impl Names {
    /// None yet, for the processes of this control group.
    pub fn new(cgroup: &Path) -> Self {
        Self {
            forwarder: Arc::default(),
            cgroup: cgroup.to_owned(),
            served: Mutex::default(),
        }
    }

    /// The queries' way to the host.
    pub fn forwarder(&self) -> Arc<Forwarder> {
        self.forwarder.clone()
    }

    /// Those of the addresses that are not served yet.
    pub fn missing(&self, addresses: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
        let served = self.served();
        let is_served = |address: &&Ipv4Addr| served.servers.iter().any(|server| server.address == **address);
        addresses
            .iter()
            .filter(|address| !is_served(address))
            .copied()
            .collect()
    }

    /// Serves these addresses and no others: on the new sockets, and where it does so already.
    pub fn serve(&self, addresses: &[Ipv4Addr], new: Vec<Sockets>) -> Result<()> {
        let mut served = self.served();
        let Served { servers, redirection } = &mut *served;
        if new.is_empty() && servers.len() == addresses.len() {
            return Ok(());
        }
        servers.retain(|server| addresses.contains(&server.address));
        for sockets in new {
            let address = sockets.address;
            let server = Server::start(sockets, &self.forwarder)
                .map_err(|error| Error::kernel(format!("serve names at {address}"), error))?;
            servers.push(server);
        }
        *redirection = match servers.is_empty() {
            true => None,
            false => Some(self.redirect(servers).map_err(|error| {
                let action = format!("redirect the name queries of {}", self.cgroup.display());
                Error::kernel(action, error)
            })?),
        };
        Ok(())
    }

    fn redirect(&self, servers: &[Server]) -> io::Result<Redirection> {
        let served: Vec<_> = servers
            .iter()
            .map(|server| SocketAddrV4::new(server.address, server.port))
            .collect();
        Redirection::attach(&served, File::open(&self.cgroup)?.as_fd())
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().expect("no panic while it is locked")
    }
}
