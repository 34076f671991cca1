//! What happens to a container in its life, as the host may follow it.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::Interest;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::fd::{self, Watched};
use crate::stats::oom_kills;

/// One of them.
pub enum Event {
    /// The kernel's OOM killer has ended a process.
    Oom,
    /// A datagram has come to the notification socket.
    Notification(Bytes),
}

/// Follows a container from now to the end of its init.
pub struct Events {
    container: Arc<Container>,
    /// None if the kernel does not count.
    memory: Option<Watched>,
    ooms_told: u64,
}

impl Events {
    /// From now on.
    pub fn of(container: Arc<Container>) -> Result<Self> {
        let path = container.cgroup.path().join("memory.events");
        let watch = || File::open(&path).and_then(|file| fd::watch(file, Interest::PRIORITY));
        let memory = match path.exists() {
            true => Some(watch().map_err(|error| Error::kernel(format!("watch {}", path.display()), error))?),
            false => None,
        };
        let ooms_told = oom_kills(container.cgroup.path());
        Ok(Self {
            container,
            memory,
            ooms_told,
        })
    }

    /// The next; None when the init has ended, and all is told.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let mut exit = self.container.init().exit();
        loop {
            if oom_kills(self.container.cgroup.path()) > self.ooms_told {
                self.ooms_told += 1;
                return Ok(Some(Event::Oom));
            }
            if exit.code().is_some() {
                return Ok(None);
            }
            tokio::select! {
                _ = exit.wait() => {}
                changed = changed(self.memory.as_ref()) => changed?,
                datagram = self.container.notification() => return Ok(Some(Event::Notification(datagram?))),
            }
        }
    }
}

async fn changed(memory: Option<&Watched>) -> Result<()> {
    let Some(memory) = memory else {
        return std::future::pending().await;
    };
    let mut ready = memory
        .ready(Interest::PRIORITY)
        .await
        .map_err(|error| Error::kernel("wait for memory.events", error))?;
    ready.clear_ready();
    Ok(())
}
