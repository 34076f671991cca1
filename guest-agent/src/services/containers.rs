//! Life and measure of a container.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Stream, unfold};
use oci_spec::runtime::LinuxNamespaceType;
use tonic::{Request, Status, async_trait};

use super::{Outcome, Response, executable_error, network_request, parsed, proto, stdio_request, uninterrupted};
use crate::container::Containers;
use crate::error::{Error, bounded};
use crate::events::{Event, Events};
use crate::ps;
use crate::stats::{HugePages, Io, Stats};
use crate::wish::Wish;

pub struct Service {
    pub containers: Arc<Containers>,
}

#[async_trait]
impl proto::containers_server::Containers for Service {
    async fn create(&self, request: Request<proto::CreateRequest>) -> Outcome<proto::CreateResponse> {
        let request = request.into_inner();
        let wish = Wish {
            spec: parsed("oci_config", &request.oci_config)?,
            stdio: stdio_request(request.stdio)?,
            notify: request.notify,
            hook_state: String::from_utf8(request.hook_state.to_vec())
                .map_err(|error| Error::InvalidArgument(format!("hook_state: {error}")))?,
            network: network_request::network(request.network)?,
            joined: joined_namespaces(request.joined)?,
        };
        let containers = self.containers.clone();
        let created = uninterrupted(async move { containers.create(request.container_id, wish).await }).await;
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

    async fn pause(&self, request: Request<proto::PauseRequest>) -> Outcome<proto::PauseResponse> {
        let container = self.containers.get(&request.into_inner().container_id)?;
        uninterrupted(async move { container.pause(true).await }).await?;
        Ok(Response::new(proto::PauseResponse {}))
    }

    async fn resume(&self, request: Request<proto::ResumeRequest>) -> Outcome<proto::ResumeResponse> {
        let container = self.containers.get(&request.into_inner().container_id)?;
        uninterrupted(async move { container.pause(false).await }).await?;
        Ok(Response::new(proto::ResumeResponse {}))
    }

    async fn update(&self, request: Request<proto::UpdateRequest>) -> Outcome<proto::UpdateResponse> {
        let request = request.into_inner();
        let limits = parsed("oci_resources", &request.oci_resources)?;
        let container = self.containers.get(&request.container_id)?;
        container.cgroup.update(&limits)?;
        Ok(Response::new(proto::UpdateResponse {}))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

    async fn events(&self, request: Request<proto::EventsRequest>) -> Outcome<Self::EventsStream> {
        let container = self.containers.get(&request.into_inner().container_id)?;
        let events = Events::of(container)?;
        Ok(Response::new(Box::pin(unfold(Some(events), next_event))))
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
        Ok(Response::new(Stats::of(container.cgroup.path()).into()))
    }
}

fn joined_namespaces(joined: Vec<proto::JoinedNamespace>) -> crate::error::Result<Vec<(LinuxNamespaceType, String)>> {
    let parse = |namespace: proto::JoinedNamespace| match LinuxNamespaceType::try_from(namespace.r#type.as_str()) {
        Ok(kind) => Ok((kind, namespace.container_id)),
        Err(_) => Err(Error::InvalidArgument(format!(
            "joined: there is no namespace of the type {:?}",
            bounded(namespace.r#type)
        ))),
    };
    joined.into_iter().map(parse).collect()
}

/// The next event as a message, and where to go on, if more may follow.
async fn next_event(events: Option<Events>) -> Option<(Result<proto::Event, Status>, Option<Events>)> {
    use proto::event::{Event as Kind, Oom};
    let mut events = events?;
    let event = match events.next().await {
        Ok(None) => return None,
        Ok(Some(Event::Oom)) => Kind::Oom(Oom {}),
        Ok(Some(Event::Notification(datagram))) => Kind::Notification(datagram),
        Err(error) => return Some((Err(error.into()), None)),
    };
    Some((Ok(proto::Event { event: Some(event) }), Some(events)))
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
        let cpu = |name: &str| count(&stats.cpu, name);
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
                limit_hits: count(&stats.memory_events, "max"),
                swap_bytes: stats.swap_usage,
                swap_limit_bytes: stats.swap_limit,
                swap_limit_hits: count(&stats.swap_events, "max"),
                oom_kills: count(&stats.memory_events, "oom_kill"),
                details: stats.memory_details,
            }),
            io: stats.io.into_iter().map(Into::into).collect(),
            huge_pages: stats.huge_pages.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Io> for proto::stats_response::Io {
    fn from(io: Io) -> Self {
        Self {
            major: io.major,
            minor: io.minor,
            read_bytes: count(&io.counters, "rbytes"),
            written_bytes: count(&io.counters, "wbytes"),
            reads: count(&io.counters, "rios"),
            writes: count(&io.counters, "wios"),
        }
    }
}

impl From<HugePages> for proto::stats_response::HugePages {
    fn from(pages: HugePages) -> Self {
        Self {
            page_size: pages.size,
            usage_bytes: pages.usage,
            limit_hits: pages.limit_hits,
        }
    }
}

fn count(counters: &HashMap<String, u64>, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or_default()
}
