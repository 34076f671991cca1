//! The network namespaces of containers, and the machine's devices in them.
//!
//! A device waits in the namespace of the agent until an interface needs it. [`reconcile`] does the work, by [`netlink`].

mod link;
mod messages;
mod netlink;
mod reconcile;
pub mod wanted;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::names::forwarder::Forwarder;
use crate::names::{Names, Sockets};
use netlink::Netlink;
use reconcile::{Set, Work};
use wanted::Network;

/// A network namespace that the agent furnishes.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    namespace: OwnedFd,
    names: Names,
    /// Held during a change: one at a time.
    changing: tokio::sync::Mutex<()>,
    /// Whether anything has ever been wanted in it.
    furnished: AtomicBool,
    /// Locked by the thread that works in it.
    set: Mutex<Set>,
}

impl Namespace {
    /// The one that a descriptor stands for, with nothing in it but lo, and the processes of a control group.
    pub fn new(namespace: OwnedFd, cgroup: &Path) -> Self {
        Self(Arc::new(Inner {
            namespace,
            names: Names::new(cgroup),
            changing: tokio::sync::Mutex::default(),
            furnished: AtomicBool::new(false),
            set: Mutex::default(),
        }))
    }

    /// Brings it to what is wanted.
    pub async fn bring_to(&self, wanted: Network) -> Result<()> {
        if wanted == Network::default() && !self.is_furnished() {
            return Ok(());
        }
        self.0.furnished.store(true, Ordering::Relaxed);
        let _changing = self.0.changing.lock().await;
        let name_servers = wanted.name_servers.clone();
        let missing = self.0.names.missing(&name_servers);
        let sockets = self.work(move |work| {
            work.bring_to(&wanted)?;
            missing.into_iter().map(open_sockets).collect::<Result<_>>()
        });
        self.0.names.serve(&name_servers, sockets.await?)
    }

    /// The way of its name queries to the host.
    pub fn forwarder(&self) -> Arc<Forwarder> {
        self.0.names.forwarder()
    }

    /// Gives back what the machine has put into it.
    pub async fn give_devices_back(&self) -> Result<()> {
        if !self.is_furnished() {
            return Ok(());
        }
        let _changing = self.0.changing.lock().await;
        self.work(|work| work.give_all_back()).await
    }

    /// One more container has it, with the processes of this control group.
    pub fn share_with(&self, cgroup: &Path) -> Result<()> {
        self.0.names.add(cgroup)
    }

    /// A container that had it is gone.
    pub fn leave(&self, cgroup: &Path) {
        self.0.names.remove(cgroup);
    }

    /// Whether several containers have it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn is_furnished(&self) -> bool {
        self.0.furnished.load(Ordering::Relaxed)
    }

    /// Works in a thread that enters the namespace: the agent's own must not.
    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&mut Work) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.0.clone();
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || tell.send(inner.enter(work)))
            .map_err(|error| Error::kernel("start a thread", error))?;
        told.await
            .unwrap_or_else(|_| Err(Error::Internal("the agent failed at a network".to_owned())))
    }
}

fn open_sockets(address: Ipv4Addr) -> Result<Sockets> {
    Sockets::open(address).map_err(|error| Error::kernel(format!("open the sockets of name server {address}"), error))
}

impl Inner {
    fn enter<T>(&self, work: impl FnOnce(&mut Work) -> Result<T>) -> Result<T> {
        let outer = File::open("/proc/thread-self/ns/net")
            .map_err(|error| Error::kernel("open the guest's network namespace", error))?;
        let outside = Netlink::open()?;
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::kernel("enter the container's network namespace", error))?;
        let inside = Netlink::open()?;
        work(&mut Work {
            outside,
            outer: outer.as_fd(),
            inside,
            inner: self.namespace.as_fd(),
            set: &mut self.set.lock().expect("no panic while it is locked"),
        })
    }
}
