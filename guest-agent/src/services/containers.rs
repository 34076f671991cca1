//! Life and measure of a container.

use std::sync::Arc;

use tonic::{Request, async_trait};

use super::{Outcome, Response, executable_error, parsed, proto, stdio_request, uninterrupted};
use crate::cgroup::Stats;
use crate::container::Containers;
use crate::error::Error;
use crate::ps;

pub struct Service {
    pub containers: Arc<Containers>,
}

#[async_trait]
impl proto::containers_server::Containers for Service {
    async fn create(&self, request: Request<proto::CreateRequest>) -> Outcome<proto::CreateResponse> {
        let request = request.into_inner();
        let spec = parsed("oci_config", &request.oci_config)?;
        let stdio = stdio_request(request.stdio)?;
        let containers = self.containers.clone();
        let created = uninterrupted(async move { containers.create(request.container_id, spec, stdio).await }).await;
        Ok(Response::new(match executable_error(created)? {
            Ok(container) => proto::CreateResponse {
                pid: container.init().pid.as_raw() as u32,
                error: None,
            },
            Err(error) => proto::CreateResponse {
                pid: 0,
                error: Some(error),
            },
        }))
    }

    async fn start(&self, request: Request<proto::StartRequest>) -> Outcome<proto::StartResponse> {
        let container = self.containers.get(&request.into_inner().container_id)?;
        let started = uninterrupted(async move { container.start().await }).await;
        Ok(Response::new(proto::StartResponse {
            error: executable_error(started)?.err(),
        }))
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Outcome<proto::DeleteResponse> {
        let containers = self.containers.clone();
        uninterrupted(async move { containers.delete(&request.into_inner().container_id).await }).await?;
        Ok(Response::new(proto::DeleteResponse {}))
    }

    async fn list_processes(
        &self,
        request: Request<proto::ListProcessesRequest>,
    ) -> Outcome<proto::ListProcessesResponse> {
        let container = self.containers.get(&request.into_inner().container_id)?;
        let lines = ps::list(container.cgroup.processes(), container.init().pid)
            .map_err(|error| Error::kernel("list the processes", error))?;
        let processes = lines.into_iter().map(proto::ProcessInfo::from).collect();
        Ok(Response::new(proto::ListProcessesResponse { processes }))
    }

    async fn stats(&self, request: Request<proto::StatsRequest>) -> Outcome<proto::StatsResponse> {
        let container = self.containers.get(&request.into_inner().container_id)?;
        Ok(Response::new(container.cgroup.stats().into()))
    }
}

impl From<ps::Line> for proto::ProcessInfo {
    fn from(line: ps::Line) -> Self {
        Self {
            pid: line.pid,
            parent_pid: line.parent,
            uid: line.uid,
            user: line.user,
            cpu_percent: line.cpu_percent,
            start_time: line.start_time,
            terminal: line.terminal,
            cpu_msec: line.cpu_msec,
            command: line.command,
        }
    }
}

impl From<Stats> for proto::StatsResponse {
    fn from(stats: Stats) -> Self {
        use proto::stats_response::{Cpu, Memory, Pids};
        let cpu = |name: &str| stats.cpu.get(name).copied().unwrap_or_default();
        Self {
            cpu: Some(Cpu {
                usage_usec: cpu("usage_usec"),
                user_usec: cpu("user_usec"),
                system_usec: cpu("system_usec"),
                periods: cpu("nr_periods"),
                throttled_periods: cpu("nr_throttled"),
                throttled_usec: cpu("throttled_usec"),
            }),
            pids: Some(Pids {
                current: stats.pids,
                limit: stats.pids_limit,
            }),
            memory: Some(Memory {
                usage_bytes: stats.memory_usage,
                peak_bytes: stats.memory_peak,
                limit_bytes: stats.memory_limit,
                swap_bytes: stats.memory_swap,
                oom_kills: stats.oom_kills,
                details: stats.memory_details,
            }),
        }
    }
}
