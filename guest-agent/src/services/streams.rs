//! What flows through the descriptors of a process.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Stream, unfold};
use tonic::{Request, Status, Streaming, async_trait};

use super::{Outcome, Response, proto};
use crate::container::Containers;
use crate::error::Error;
use crate::stdio::{Piece, Reader, Writer};

/// The most that one message of input carries, in bytes.
const MAX_INPUT: usize = 1 << 20;

pub struct Service {
    pub containers: Arc<Containers>,
}

#[async_trait]
impl proto::streams_server::Streams for Service {
    async fn write_input(&self, request: Request<Streaming<proto::InputChunk>>) -> Outcome<proto::WriteInputResponse> {
        let mut chunks = request.into_inner();
        let Some(first) = chunks.message().await? else {
            return Err(Error::InvalidArgument("an input without a first message".to_owned()).into());
        };
        let writer = self
            .containers
            .process(&first.container_id, &first.process_id)?
            .writer(first.descriptor)?;
        let accepted_bytes = feed(writer, first, chunks).await?;
        Ok(Response::new(proto::WriteInputResponse { accepted_bytes }))
    }

    type ReadOutputStream = Pin<Box<dyn Stream<Item = Result<proto::OutputChunk, Status>> + Send>>;

    async fn read_output(&self, request: Request<proto::ReadOutputRequest>) -> Outcome<Self::ReadOutputStream> {
        let request = request.into_inner();
        let reader = self
            .containers
            .process(&request.container_id, &request.process_id)?
            .reader(request.descriptor)?;
        Ok(Response::new(Box::pin(unfold(Some(reader), next_chunk))))
    }

    async fn close_output(&self, request: Request<proto::CloseOutputRequest>) -> Outcome<proto::CloseOutputResponse> {
        let request = request.into_inner();
        self.containers
            .process(&request.container_id, &request.process_id)?
            .close_output(request.descriptor)
            .await?;
        Ok(Response::new(proto::CloseOutputResponse {}))
    }
}

/// Writes all chunks, and then closes the descriptor. A call that breaks off leaves it open, for the host to go on.
async fn feed(
    mut writer: Writer,
    first: proto::InputChunk,
    mut chunks: Streaming<proto::InputChunk>,
) -> Result<u64, Status> {
    let mut accepted = 0;
    let mut next = Some(first);
    while let Some(chunk) = next {
        if chunk.data.len() > MAX_INPUT {
            return Err(Error::InvalidArgument(format!("a chunk of {} bytes is too large", chunk.data.len())).into());
        }
        let written = writer.write(&chunk.data).await?;
        accepted += written as u64;
        if written < chunk.data.len() {
            break;
        }
        next = tokio::select! {
            biased;
            message = chunks.message() => message?,
            () = writer.abandoned() => break,
        };
    }
    writer.close();
    Ok(accepted)
}

/// The reader's next piece as a message, and the reader, if more may follow.
async fn next_chunk(reader: Option<Reader>) -> Option<(Result<proto::OutputChunk, Status>, Option<Reader>)> {
    let mut reader = reader?;
    match reader.next().await {
        Ok(Piece::Data(data)) => Some((
            Ok(proto::OutputChunk {
                data,
                process_ended: false,
            }),
            Some(reader),
        )),
        Ok(Piece::ProcessEnded) => Some((
            Ok(proto::OutputChunk {
                data: Default::default(),
                process_ended: true,
            }),
            Some(reader),
        )),
        Ok(Piece::End) => None,
        Err(error) => Some((Err(error.into()), None)),
    }
}
