//! A process's output, as the agent streams it.

use husk_proto::agent;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Guest;

/// The stream. What is not acknowledged is kept by the agent, up to a bound; past it the process waits.
pub struct Output {
    chunks: tonic::Streaming<agent::OutputChunk>,
    acks: mpsc::Sender<agent::OutputRequest>,
}

impl Output {
    /// From `offset` on. It ends a stream that was opened before.
    pub async fn open(agent: &mut Guest, process: agent::ProcessId, offset: u64) -> Result<Output, Status> {
        let (acks, requests) = mpsc::channel(16);
        let first = agent::OutputRequest { process: Some(process), offset };
        acks.send(first).await.map_err(|_| Status::internal("the output stream is closed"))?;
        let chunks = agent.output(tonic::Request::new(ReceiverStream::new(requests))).await?.into_inner();
        Ok(Output { chunks, acks })
    }

    /// The next piece; `None` at the end of both streams.
    pub async fn next(&mut self) -> Result<Option<agent::OutputChunk>, Status> {
        Ok(self.chunks.message().await?.filter(|chunk| !chunk.eof))
    }

    /// Everything below `offset` may be forgotten.
    pub async fn acknowledge(&self, offset: u64) {
        let _ = self.acks.send(agent::OutputRequest { process: None, offset }).await;
    }
}
