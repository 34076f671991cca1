//! One process of a container, from its launch to when it is forgotten.

use std::sync::Arc;

use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::init::protocol::WindowSize;
use crate::reaper::{Exit, Reaper};
use crate::stdio::{Reader, Streams, Writer};

/// Signals are numbered from 1 to this.
pub const MAX_SIGNAL: u32 = 64;

/// A process that the host knows by an id.
pub struct Process {
    pub pid: Pid,
    reaper: Arc<Reaper>,
    exit: Exit,
    streams: Streams,
}

impl Process {
    /// Takes over what has been launched.
    pub fn new(reaper: Arc<Reaper>, pid: Pid, exit: Exit, streams: Streams) -> Self {
        Self {
            pid,
            reaper,
            exit,
            streams,
        }
    }

    /// Its end, to wait for.
    pub fn exit(&self) -> Exit {
        self.exit.clone()
    }

    pub fn has_ended(&self) -> bool {
        self.exit.code().is_some()
    }

    pub fn signal(&self, number: i32) -> Result<()> {
        match self.reaper.signal(self.pid, number) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::FailedPrecondition("the process has ended".to_owned())),
            Err(error) => Err(Error::kernel(format!("signal process {}", self.pid), error)),
        }
    }

    pub fn resize(&self, size: WindowSize) -> Result<()> {
        self.streams.resize(size)
    }

    pub fn writer(&self, descriptor: u32) -> Result<Writer> {
        self.streams.writer(descriptor, self.exit())
    }

    pub async fn close_output(&self, descriptor: u32) -> Result<()> {
        self.streams.close_output(descriptor).await
    }

    pub fn reader(&self, descriptor: u32) -> Result<Reader> {
        self.streams.reader(descriptor, self.exit())
    }
}
