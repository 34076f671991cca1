//! Processes in a container.

use std::sync::Arc;

use tonic::{Request, async_trait};

use super::{Outcome, Response, executable_error, parsed, proto, stdio_request, uninterrupted, window_size};
use crate::container::Containers;
use crate::error::{Error, Result};
use crate::process::MAX_SIGNAL;
use crate::stats::oom_kills;

pub struct Service {
    pub containers: Arc<Containers>,
}

#[async_trait]
impl proto::processes_server::Processes for Service {
    async fn exec(&self, request: Request<proto::ExecRequest>) -> Outcome<proto::ExecResponse> {
        let request = request.into_inner();
        let process = parsed("oci_process", &request.oci_process)?;
        let stdio = stdio_request(request.stdio)?;
        let container = self.containers.get(&request.container_id)?;
        let made = uninterrupted(async move { container.exec(request.process_id, process, stdio).await }).await;
        Ok(Response::new(match executable_error(made)? {
            Ok(process) => proto::ExecResponse {
                pid: process.pid.as_raw() as u32,
                error: None,
            },
            Err(error) => proto::ExecResponse {
                pid: 0,
                error: Some(error),
            },
        }))
    }

    async fn signal(&self, request: Request<proto::SignalRequest>) -> Outcome<proto::SignalResponse> {
        let request = request.into_inner();
        let number = signal_number(request.signal)?;
        let container = self.containers.get(&request.container_id)?;
        match request.all {
            true => container.signal_all(number)?,
            false => container.process(&request.process_id)?.signal(number)?,
        }
        Ok(Response::new(proto::SignalResponse {}))
    }

    async fn wait(&self, request: Request<proto::WaitRequest>) -> Outcome<proto::WaitResponse> {
        let request = request.into_inner();
        let container = self.containers.get(&request.container_id)?;
        let exit_code = container.process(&request.process_id)?.exit().wait().await.into();
        Ok(Response::new(proto::WaitResponse {
            exit_code,
            oom_killed: oom_kills(container.cgroup.path()) > 0,
        }))
    }

    async fn resize_terminal(
        &self,
        request: Request<proto::ResizeTerminalRequest>,
    ) -> Outcome<proto::ResizeTerminalResponse> {
        let request = request.into_inner();
        let size = window_size(request.rows, request.columns)?;
        self.containers
            .process(&request.container_id, &request.process_id)?
            .resize(size)?;
        Ok(Response::new(proto::ResizeTerminalResponse {}))
    }

    async fn forget(&self, request: Request<proto::ForgetRequest>) -> Outcome<proto::ForgetResponse> {
        let request = request.into_inner();
        self.containers
            .get(&request.container_id)?
            .forget(&request.process_id)?;
        Ok(Response::new(proto::ForgetResponse {}))
    }
}

fn signal_number(number: u32) -> Result<i32> {
    match (1..=MAX_SIGNAL).contains(&number) {
        true => Ok(number as i32),
        false => Err(Error::InvalidArgument(format!(
            "{number} is no signal: they are 1 to {MAX_SIGNAL}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_1_to_64() {
        assert_eq!((signal_number(1).ok(), signal_number(64).ok()), (Some(1), Some(64)));
        assert!(signal_number(0).is_err() && signal_number(65).is_err() && signal_number(u32::MAX).is_err());
    }
}
