//! The name servers of a network: served inside of it, answered by the host.
//!
//! A process asks port 53; [`redirection`] leads it to a [`server`], and that by the [`forwarder`] to the host.

pub mod forwarder;
mod message;
mod redirection;
mod server;

use std::collections::HashMap;
use std::fs::File;
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
    served: Mutex<Served>,
}

#[derive(Default)]
struct Served {
    servers: Vec<Server>,
    /// The control groups of the processes that are redirected, each with what does it while there are servers.
    redirected: HashMap<PathBuf, Option<Redirection>>,
}

impl Names {
    /// None yet, for the processes of this control group.
    pub fn new(cgroup: &Path) -> Self {
        let served = Served {
            servers: Vec::new(),
            redirected: HashMap::from([(cgroup.to_owned(), None)]),
        };
        Self {
            forwarder: Arc::default(),
            served: Mutex::new(served),
        }
    }

    /// For the processes of one more control group.
    pub fn add(&self, cgroup: &Path) -> Result<()> {
        let mut served = self.served();
        let redirection = served.redirect(cgroup)?;
        served.redirected.insert(cgroup.to_owned(), redirection);
        Ok(())
    }

    /// No longer for those of one of them.
    pub fn remove(&self, cgroup: &Path) {
        self.served().redirected.remove(cgroup);
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
        if new.is_empty() && served.servers.len() == addresses.len() {
            return Ok(());
        }
        served.servers.retain(|server| addresses.contains(&server.address));
        for sockets in new {
            let address = sockets.address;
            let server = Server::start(sockets, &self.forwarder)
                .map_err(|error| Error::kernel(format!("serve names at {address}"), error))?;
            served.servers.push(server);
        }
        let cgroups: Vec<PathBuf> = served.redirected.keys().cloned().collect();
        for cgroup in cgroups {
            let redirection = served.redirect(&cgroup)?;
            served.redirected.insert(cgroup, redirection);
        }
        Ok(())
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().expect("no panic while it is locked")
    }
}

impl Served {
    /// None if there is nowhere to redirect to.
    fn redirect(&self, cgroup: &Path) -> Result<Option<Redirection>> {
        let address = |server: &Server| SocketAddrV4::new(server.address, server.port);
        let served: Vec<_> = self.servers.iter().map(address).collect();
        if served.is_empty() {
            return Ok(None);
        }
        let attached = File::open(cgroup).and_then(|cgroup| Redirection::attach(&served, cgroup.as_fd()));
        match attached {
            Ok(redirection) => Ok(Some(redirection)),
            Err(error) => {
                let action = format!("redirect the name queries of {}", cgroup.display());
                Err(Error::kernel(action, error))
            }
        }
    }
}
