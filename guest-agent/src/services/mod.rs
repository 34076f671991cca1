//! The gRPC services: each handler checks the bounds of its request, delegates, and puts the result into the answer.

mod containers;
mod network_request;
mod networks;
mod processes;
mod sandbox;
mod streams;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Response, Status};

use crate::container::Containers;
use crate::error::{Error, Result, bounded};
use crate::init::protocol::{Failure, Reason, WindowSize};
use crate::server::Shutdown;
use crate::stdio::Kind;
use crate::wish::StdioRequest;

/// What the proto defines.
#[allow(missing_docs)]
pub mod proto {
    tonic::include_proto!("vruntime.agent.v1");
}

use proto::containers_server::ContainersServer;
use proto::networks_server::NetworksServer;
use proto::processes_server::ProcessesServer;
use proto::sandbox_server::SandboxServer;
use proto::streams_server::StreamsServer;

/// All services, by their names.
#[derive(Clone)]
pub struct Services {
    sandbox: SandboxServer<sandbox::Service>,
    containers: ContainersServer<containers::Service>,
    processes: ProcessesServer<processes::Service>,
    streams: StreamsServer<streams::Service>,
    networks: NetworksServer<networks::Service>,
}

impl Services {
    /// The services over these containers.
    pub fn new(containers: Arc<Containers>, shutdown: Shutdown) -> Self {
        Self {
            sandbox: SandboxServer::new(sandbox::Service {
                containers: containers.clone(),
                shutdown,
            }),
            containers: ContainersServer::new(containers::Service {
                containers: containers.clone(),
            }),
            processes: ProcessesServer::new(processes::Service {
                containers: containers.clone(),
            }),
            streams: StreamsServer::new(streams::Service {
                containers: containers.clone(),
            }),
            networks: NetworksServer::new(networks::Service { containers }),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = std::result::Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Incoming>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: http::Request<Incoming>) -> Answer {
        /// The service's own future; it is always ready to be called.
        fn ask<S>(service: &S, request: http::Request<Incoming>) -> S::Future
        where
            S: tonic::codegen::Service<http::Request<Incoming>> + Clone,
        {
            let mut service = service.clone();
            debug_assert!(matches!(
                service.poll_ready(&mut Context::from_waker(std::task::Waker::noop())),
                Poll::Ready(_)
            ));
            service.call(request)
        }
        match request.uri().path().split('/').nth(1) {
            Some(SandboxServer::<sandbox::Service>::NAME) => ask(&self.sandbox, request),
            Some(ContainersServer::<containers::Service>::NAME) => ask(&self.containers, request),
            Some(ProcessesServer::<processes::Service>::NAME) => ask(&self.processes, request),
            Some(StreamsServer::<streams::Service>::NAME) => ask(&self.streams, request),
            Some(NetworksServer::<networks::Service>::NAME) => ask(&self.networks, request),
            _ => Box::pin(async { Ok(Status::unimplemented("there is no such service").into_http()) }),
        }
    }
}

type Outcome<T> = std::result::Result<Response<T>, Status>;

/// Carries out a change to its end, even when the caller goes away in the midst of it.
async fn uninterrupted<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("the agent failed: {error}"))))
}

/// Takes out of an error what the answer itself tells: that a program cannot be executed.
fn executable_error<T>(
    result: Result<T>,
) -> std::result::Result<std::result::Result<T, proto::ExecutableError>, Status> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Executable(failure)) => Ok(Err(failure.into())),
        Err(error) => Err(error.into()),
    }
}

impl From<Failure> for proto::ExecutableError {
    fn from(failure: Failure) -> Self {
        use proto::executable_error::Reason as Kind;
        let reason = match failure.reason {
            Reason::NotFound => Kind::NotFound,
            Reason::NotExecutable => Kind::NotExecutable,
            Reason::WorkingDirectory => Kind::WorkingDirectory,
            Reason::Process | Reason::Invalid | Reason::Kernel => Kind::Setup,
        };
        Self {
            reason: reason.into(),
            message: bounded(failure.message),
        }
    }
}

/// A JSON document of the request.
fn parsed<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::InvalidArgument(format!("{what} cannot be read: {error}")))
}

/// Most descriptors of a process that lead to the host.
const MAX_DESCRIPTORS: usize = 64;

/// Without any wish, all streams are /dev/null.
fn stdio_request(stdio: Option<proto::Stdio>) -> Result<StdioRequest> {
    let stdio = stdio.unwrap_or_default();
    let window = match (stdio.rows, stdio.columns) {
        (0, 0) => None,
        (rows, columns) => Some(window_size(rows, columns)?),
    };
    let standard = [
        if stdio.stdin { Kind::Input } else { Kind::Null },
        if stdio.stdout { Kind::Output } else { Kind::Null },
        if stdio.stderr { Kind::Output } else { Kind::Null },
    ];
    let mut descriptors = standard.to_vec();
    for kind in stdio.further {
        descriptors.push(descriptor_kind(kind)?);
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(Error::InvalidArgument(format!(
            "a process cannot be given more than {MAX_DESCRIPTORS} descriptors"
        )));
    }
    Ok(StdioRequest { descriptors, window })
}

fn descriptor_kind(kind: i32) -> Result<Kind> {
    Ok(match proto::stdio::Kind::try_from(kind) {
        Ok(proto::stdio::Kind::Null) => Kind::Null,
        Ok(proto::stdio::Kind::Input) => Kind::Input,
        Ok(proto::stdio::Kind::Output) => Kind::Output,
        Ok(proto::stdio::Kind::Socket) => Kind::Socket,
        Err(_) => {
            return Err(Error::InvalidArgument(format!(
                "there is no descriptor of the kind {kind}"
            )));
        }
    })
}

fn window_size(rows: u32, columns: u32) -> Result<WindowSize> {
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok(WindowSize { rows, columns }),
        _ => Err(Error::InvalidArgument(format!(
            "a terminal of {rows} rows and {columns} columns is too large"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_16_bits_a_side() {
        assert_eq!(
            window_size(65_535, 0).ok(),
            Some(WindowSize {
                rows: 65_535,
                columns: 0
            })
        );
        assert!(window_size(65_536, 0).is_err());
        assert!(window_size(0, u32::MAX).is_err());
    }
}
