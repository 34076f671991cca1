//! The network of a container.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Stream, unfold};
use tonic::{Request, Status, Streaming, async_trait};

use super::{Outcome, Response, network_request, proto, uninterrupted};
use crate::container::{Container, Containers};
use crate::names::forwarder::{Forwarder, Query};

/// The longest answer to a name query.
const MAX_ANSWER: usize = 65_535;

pub struct Service {
    pub containers: Arc<Containers>,
}

#[async_trait]
impl proto::networks_server::Networks for Service {
    async fn configure(
        &self,
        request: Request<proto::ConfigureNetworkRequest>,
    ) -> Outcome<proto::ConfigureNetworkResponse> {
        let request = request.into_inner();
        let wanted = network_request::network(request.network)?;
        let container = self.containers.get(&request.container_id)?;
        uninterrupted(async move { container.network()?.bring_to(wanted).await }).await?;
        Ok(Response::new(proto::ConfigureNetworkResponse {}))
    }

    type ForwardNamesStream = Pin<Box<dyn Stream<Item = Result<proto::NameQuery, Status>> + Send>>;

    async fn forward_names(&self, request: Request<Streaming<proto::NameAnswer>>) -> Outcome<Self::ForwardNamesStream> {
        let mut answers = request.into_inner();
        let first = answers.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("container_id: the first message is missing"))?;
        let container = self.containers.get(&first.container_id)?;
        let forwarder = container.network()?.forwarder();
        let carrier = Carrier {
            number: forwarder.take_over(),
            forwarder,
            container,
            answers,
        };
        Ok(Response::new(Box::pin(unfold(Some(carrier), next_query))))
    }
}

/// One who carries queries to the host, and answers from it.
struct Carrier {
    number: u64,
    forwarder: Arc<Forwarder>,
    container: Arc<Container>,
    answers: Streaming<proto::NameAnswer>,
}

/// The next query as a message, and where to go on, if more may follow.
async fn next_query(carrier: Option<Carrier>) -> Option<(Result<proto::NameQuery, Status>, Option<Carrier>)> {
    let mut carrier = carrier?;
    match carrier.next().await {
        Ok(query) => Some((Ok(query?.into()), Some(carrier))),
        Err(status) => Some((Err(status), None)),
    }
}

impl Carrier {
    /// Passes on answers until there is a query; None when the container has ended, another has taken over, or the host
    /// will give no more answers.
    async fn next(&mut self) -> Result<Option<Query>, Status> {
        let mut exit = self.container.init().exit();
        loop {
            tokio::select! {
                _ = exit.wait() => return Ok(None),
                query = self.forwarder.next(self.number) => return Ok(query),
                answer = self.answers.message() => match answer? {
                    None => return Ok(None),
                    Some(answer) if answer.message.len() > MAX_ANSWER => {
                        let length = answer.message.len();
                        return Err(Status::invalid_argument(format!("message: {length} bytes are more than {MAX_ANSWER}")));
                    }
                    Some(answer) => self.forwarder.answer(answer.number, answer.message),
                },
            }
        }
    }
}

impl From<Query> for proto::NameQuery {
    fn from(query: Query) -> Self {
        Self {
            number: query.number,
            message: query.message,
            tcp: query.tcp,
            name_server: query.name_server.octets().to_vec().into(),
        }
    }
}
