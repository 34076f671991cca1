//! The network of a container.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::Stream;
use tonic::{Request, Status, Streaming, async_trait};

use super::{Outcome, Response, network_request, proto, uninterrupted};
use crate::container::Containers;

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

    async fn forward_names(&self, _: Request<Streaming<proto::NameAnswer>>) -> Outcome<Self::ForwardNamesStream> {
        Err(Status::unimplemented("name servers are not served yet"))
    }
}
