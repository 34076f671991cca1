//! Serves the host: one HTTP/2 connection after the other over the channel, until the host asks for the shutdown.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::channel::{Channel, Connections};
use crate::container::Containers;
use crate::reaper::Reaper;
use crate::services::Services;

/// Bounds of a connection. The windows let the host keep a pipe's content of each stream in flight.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME: u32 = 1 << 20;
const MAX_HEADERS: u32 = 16 << 10;
const MAX_UNSENT: usize = 1 << 20;

/// How long the answer to a shutdown may take to reach the host.
const FAREWELL_DEADLINE: Duration = Duration::from_millis(500);

/// The wish to end, seen by every connection.
#[derive(Clone)]
pub struct Shutdown(watch::Sender<bool>);

impl Shutdown {
    /// Lets the calls that are open end, and then the agent.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    async fn begun(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}

/// Serves in this thread until the shutdown: the guest has one CPU as a rule, and each thread costs memory and time.
pub fn run(channel: Channel, cgroup_root: PathBuf) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(channel, cgroup_root))
}

async fn serve(channel: Channel, cgroup_root: PathBuf) -> io::Result<()> {
    let shutdown = Shutdown(watch::Sender::new(false));
    let containers = Arc::new(Containers::new(Reaper::start()?, cgroup_root));
    let services = Services::new(containers, shutdown.clone());
    let mut connections = Connections::open(channel)?;
    loop {
        let connection = tokio::select! {
            connection = connections.next() => connection?,
            () = shutdown.begun() => return Ok(()),
        };
        // Awaited where there can be but one, so that the next begins when it has ended.
        let session = converse(connection.stream, services.clone(), shutdown.clone());
        match connection.exclusive {
            true => session.await,
            false => drop(tokio::spawn(session)),
        }
    }
}

/// One connection, to its end.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, services: Services, shutdown: Shutdown) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_UNSENT)
        .serve_connection(TokioIo::new(stream), services);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            // Ends when the host has heard that there will be no further calls, and closes.
            tokio::time::timeout(FAREWELL_DEADLINE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        crate::log::warning(&format!("the connection to the host broke off: {error}"));
    }
}
