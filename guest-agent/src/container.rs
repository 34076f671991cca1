//! The containers of the sandbox, and the transitions of their lives.
//!
//! ```text
//! (none) --create--> creating --> created --start--> running
//!                                    |                  |  the init ends
//!                                    +----> stopped <---+
//! created, running, stopped --delete--> deleting --> (none)
//! ```
//!
//! The lock of the table is held for a look or a change, never while something is awaited.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use oci_spec::runtime::{LinuxNamespaceType, Process as OciProcess, Spec};
use tokio::sync::Notify;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::held;
use crate::init::namespaces;
use crate::init::protocol::{Create, Exec, Request};
use crate::launch::{Conversation, Launched, Place, launch, start};
use crate::network::Namespace;
use crate::notify::NotifySocket;
use crate::process::Process;
use crate::reaper::Reaper;
use crate::scheduling;
use crate::status::Status;
use crate::wish::{StdioRequest, Wish};

/// The process id of a container's first process.
pub const INIT: &str = "init";

/// Bounds that no sane host meets.
const MAX_CONTAINERS: usize = 1024;
const MAX_PROCESSES: usize = 4096;
const MAX_ID: usize = 1024;

/// All containers.
pub struct Containers {
    reaper: Arc<Reaper>,
    cgroup_root: PathBuf,
    table: Mutex<HashMap<String, Entry>>,
    /// Something that was being made has come to be, or has not.
    made: Notify,
}

/// What the table knows of an id.
enum Entry {
    Creating,
    Present(Arc<Container>),
    Deleting,
}

impl Entry {
    fn present(&self) -> Option<Arc<Container>> {
        match self {
            Self::Present(container) => Some(container.clone()),
            Self::Creating | Self::Deleting => None,
        }
    }
}

/// A container that exists.
pub struct Container {
    pub id: String,
    pub cgroup: Cgroup,
    spec: Spec,
    reaper: Arc<Reaper>,
    init: Arc<Process>,
    state: Mutex<State>,
    notify: Option<NotifySocket>,
    /// The network namespace that was made for it, or for one that shares it.
    network: Option<Namespace>,
    /// What the container has of the share, held until it is deleted.
    _shared: Vec<OwnedFd>,
    /// Its namespaces, likewise.
    _namespaces: Vec<File>,
}

struct State {
    /// The init's end of the conversation, until it is started.
    unstarted: Option<Conversation>,
    /// Those added by exec; None while one is being made.
    processes: HashMap<String, Option<Arc<Process>>>,
}

impl Containers {
    /// No containers yet; their cgroups will be below this directory.
    pub fn new(reaper: Arc<Reaper>, cgroup_root: PathBuf) -> Self {
        Self {
            reaper,
            cgroup_root,
            table: Mutex::default(),
            made: Notify::new(),
        }
    }

    /// Makes a container, whose init waits for [`Self::start`].
    pub async fn create(&self, id: String, wish: Wish) -> Result<Arc<Container>> {
        check_id("container", &id)?;
        self.reserve(&id)?;
        let result = self.make(&id, wish).await.map(Arc::new);
        match &result {
            Ok(container) => self.table().insert(id, Entry::Present(container.clone())),
            Err(_) => self.table().remove(&id),
        };
        self.made.notify_waiters();
        result
    }

    /// Waits until a container that is being made has come to be, or has not.
    async fn settled(&self, id: &str) {
        loop {
            let made = self.made.notified(); // before the look: so none is missed
            if !matches!(self.table().get(id), Some(Entry::Creating)) {
                return;
            }
            made.await;
        }
    }

    fn reserve(&self, id: &str) -> Result<()> {
        let mut table = self.table();
        if table.contains_key(id) {
            return Err(Error::AlreadyExists(format!("container {id:?} exists already")));
        }
        if table.len() >= MAX_CONTAINERS {
            return Err(Error::FailedPrecondition(format!(
                "there are {MAX_CONTAINERS} containers already"
            )));
        }
        table.insert(id.to_owned(), Entry::Creating);
        Ok(())
    }

    async fn make(&self, id: &str, wish: Wish) -> Result<Container> {
        let Wish {
            mut spec,
            stdio,
            notify,
            hook_state,
            network,
            joined,
        } = wish;
        let shared_network = self.join(&mut spec, &joined)?;
        let window = stdio.window;
        let descriptors = stdio.kinds(spec.process().as_ref());
        let notify = notify.then(|| NotifySocket::make(id)).transpose()?;
        let cgroup = Cgroup::create(&self.cgroup_root, id, &spec)?;
        let shared = held::shared(&spec);
        let request = Request::Create(Box::new(Create {
            container: id.to_owned(),
            spec,
            window,
            hook_state,
        }));
        let place = Place {
            reaper: &self.reaper,
            cgroup: &cgroup,
            init: None,
            cpus: None,
            network: Some(&network),
        };
        let joined_network = shared_network
            .iter()
            .try_for_each(|network| network.share_with(cgroup.path()));
        let launched = match joined_network {
            Ok(()) => launch(place, &request, &descriptors).await,
            Err(error) => Err(error),
        };
        let launched = match launched {
            Ok(launched) => launched,
            Err(error) => {
                shared_network.iter().for_each(|network| network.leave(cgroup.path()));
                cgroup.destroy().await?;
                return Err(error);
            }
        };
        let Request::Create(create) = request else {
            unreachable!("the request has just been made")
        };
        let Launched {
            pid,
            exit,
            streams,
            conversation,
            network,
        } = launched;
        Ok(Container {
            id: id.to_owned(),
            cgroup,
            spec: create.spec,
            reaper: self.reaper.clone(),
            init: Arc::new(Process::new(self.reaper.clone(), pid, exit, streams)),
            state: Mutex::new(State {
                unstarted: Some(conversation),
                processes: HashMap::new(),
            }),
            notify,
            network: network.or(shared_network),
            _shared: shared,
            _namespaces: held::namespaces(pid),
        })
    }

    /// Puts the namespaces of other containers into the configuration; gives the network namespace, if one is among them.
    fn join(&self, spec: &mut Spec, joined: &[(LinuxNamespaceType, String)]) -> Result<Option<Namespace>> {
        let mut network = None;
        for (kind, id) in joined {
            let container = self.get(id)?;
            container.status().require("joined", id, Status::can_exec)?;
            if *kind == LinuxNamespaceType::Network {
                network.clone_from(&container.network);
            }
            namespaces::share(spec, *kind, container.init.pid)?;
        }
        Ok(network)
    }

    /// Kills what is left of a container, and forgets it. One that is being made is deleted once it is there: whoever
    /// has asked for it may have gone away.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.settled(id).await;
        let container = self.begin_delete(id)?;
        let result = container.cgroup.destroy().await;
        if result.is_ok() {
            container.init.exit().wait().await;
            container.leave_network().await;
        }
        let mut table = self.table();
        match result {
            Ok(()) => table.remove(id),
            Err(_) => table.insert(id.to_owned(), Entry::Present(container)),
        };
        result
    }

    fn begin_delete(&self, id: &str) -> Result<Arc<Container>> {
        let mut table = self.table();
        let container = found(&table, id)?;
        container.status().require("deleted", id, Status::can_delete)?;
        table.insert(id.to_owned(), Entry::Deleting);
        Ok(container)
    }

    /// A container that exists.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        found(&self.table(), id)
    }

    /// A process of a container.
    pub fn process(&self, container: &str, process: &str) -> Result<Arc<Process>> {
        self.get(container)?.process(process)
    }

    /// Kills every process of every container, for good: the guest is about to end.
    pub async fn end_all(&self) {
        let containers: Vec<Arc<Container>> = self.table().values().filter_map(Entry::present).collect();
        for container in containers {
            if let Err(error) = container.cgroup.empty().await {
                crate::log::warning(&format!("container {:?} does not end: {error:?}", container.id));
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.table.lock().expect("no panic while the table is locked")
    }
}

fn found(table: &HashMap<String, Entry>, id: &str) -> Result<Arc<Container>> {
    let status = match table.get(id) {
        Some(Entry::Present(container)) => return Ok(container.clone()),
        Some(Entry::Creating) => Status::Creating,
        Some(Entry::Deleting) => Status::Deleting,
        None => return Err(Error::NotFound(format!("container {id:?} does not exist"))),
    };
    Err(Error::FailedPrecondition(format!("container {id:?} is {status}")))
}

impl Container {
    /// What it is doing.
    pub fn status(&self) -> Status {
        match self.state().unstarted {
            _ if self.init.has_ended() => Status::Stopped,
            Some(_) => Status::Created,
            None => Status::Running,
        }
    }

    /// The container's first process.
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// Lets the init execute its program.
    pub async fn start(&self) -> Result<()> {
        self.status().require("started", &self.id, Status::can_start)?;
        let unstarted = self.state().unstarted.take();
        let conversation = unstarted.expect("what is created is not started");
        let result = start(conversation, &self.spec).await;
        if result.is_err() {
            // It may have ended by itself.
            let _ = self.init.signal(nix::libc::SIGKILL);
        }
        result
    }

    /// Adds a process.
    pub async fn exec(&self, id: String, process: OciProcess, stdio: StdioRequest) -> Result<Arc<Process>> {
        check_id("process", &id)?;
        self.status()
            .require("given a further process", &self.id, Status::can_exec)?;
        if self.cgroup.is_frozen() {
            let message = format!(
                "container {:?} cannot be given a further process: it is paused",
                self.id
            );
            return Err(Error::FailedPrecondition(message));
        }
        self.reserve(&id)?;
        let window = stdio.window;
        let descriptors = stdio.kinds(Some(&process));
        let affinity = scheduling::affinity(&process, self.spec.process().as_ref()).cloned();
        let request = Request::Exec(Box::new(Exec {
            container: self.id.clone(),
            process,
            spec: self.spec.clone(),
            window,
        }));
        let place = Place {
            reaper: &self.reaper,
            cgroup: &self.cgroup,
            init: Some(self.init.pid),
            cpus: affinity.as_ref().and_then(|affinity| affinity.initial().as_deref()),
            network: None,
        };
        let result = launch(place, &request, &descriptors).await;
        let mut state = self.state();
        match result {
            Ok(Launched { pid, exit, streams, .. }) => {
                let process = Arc::new(Process::new(self.reaper.clone(), pid, exit, streams));
                state.processes.insert(id, Some(process.clone()));
                Ok(process)
            }
            Err(error) => {
                state.processes.remove(&id);
                Err(error)
            }
        }
    }

    fn reserve(&self, id: &str) -> Result<()> {
        let mut state = self.state();
        if id == INIT || state.processes.contains_key(id) {
            return Err(Error::AlreadyExists(format!(
                "process {id:?} of container {:?} exists already",
                self.id
            )));
        }
        if state.processes.len() >= MAX_PROCESSES {
            let message = format!("container {:?} has {MAX_PROCESSES} processes already", self.id);
            return Err(Error::FailedPrecondition(message));
        }
        state.processes.insert(id.to_owned(), None);
        Ok(())
    }

    /// Stops every process, or lets them go on.
    pub async fn pause(&self, paused: bool) -> Result<()> {
        let action = if paused { "paused" } else { "resumed" };
        self.status().require(action, &self.id, Status::can_exec)?;
        self.cgroup.freeze(paused).await
    }

    /// The next datagram to its notification socket; never, if it has none.
    pub async fn notification(&self) -> Result<Bytes> {
        match &self.notify {
            Some(socket) => socket.receive().await,
            None => std::future::pending().await,
        }
    }

    /// Its network namespace, which it may lack: it may be in the guest's.
    pub fn network(&self) -> Result<&Namespace> {
        self.network
            .as_ref()
            .ok_or_else(|| Error::FailedPrecondition(format!("container {:?} has no network namespace", self.id)))
    }

    /// Unless others share the namespace, its devices wait for another container.
    async fn leave_network(&self) {
        let Some(network) = &self.network else { return };
        network.leave(self.cgroup.path());
        if !network.is_shared()
            && let Err(error) = network.give_devices_back().await
        {
            // The kernel gives them back with the end of the namespace.
            crate::log::warning(&format!("the network devices of container {:?}: {error:?}", self.id));
        }
    }

    /// Signals every process, the init last: its end would kill the others before they have had the signal.
    pub fn signal_all(&self, number: i32) -> Result<()> {
        if number == nix::libc::SIGKILL {
            return self.cgroup.kill();
        }
        self.cgroup.signal_others(number, self.init.pid)?;
        match self.init.signal(number) {
            Err(Error::FailedPrecondition(_has_ended)) => Ok(()),
            result => result,
        }
    }

    /// A process by its id.
    pub fn process(&self, id: &str) -> Result<Arc<Process>> {
        if id == INIT {
            return Ok(self.init.clone());
        }
        match self.state().processes.get(id) {
            Some(Some(process)) => Ok(process.clone()),
            Some(None) => Err(Error::FailedPrecondition(format!("process {id:?} is being made"))),
            None => Err(Error::NotFound(format!(
                "container {:?} has no process {id:?}",
                self.id
            ))),
        }
    }

    /// Forgets an ended process; what its children still write is dropped.
    pub fn forget(&self, id: &str) -> Result<()> {
        if id == INIT {
            let message = format!("the init of container {:?} is forgotten by its deletion", self.id);
            return Err(Error::FailedPrecondition(message));
        }
        if !self.process(id)?.has_ended() {
            return Err(Error::FailedPrecondition(format!(
                "process {id:?} cannot be forgotten: it is running"
            )));
        }
        self.state().processes.remove(id);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is locked")
    }
}

/// An id is a directory's name among the cgroups, and appears in messages.
fn check_id(what: &str, id: &str) -> Result<()> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_+-.".contains(&c);
    match (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain) && id != "." && id != ".." {
        true => Ok(()),
        false => Err(Error::InvalidArgument(format!(
            "{what} id {:?} is not valid",
            crate::error::bounded(id.to_owned())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_runc() {
        for id in ["a", "A.b_c+d-9", "...", &"x".repeat(255)] {
            assert!(check_id("container", id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a\nb", "a\0", "é", &"x".repeat(MAX_ID + 1)] {
            assert!(check_id("container", id).is_err(), "{id}");
        }
    }
}
