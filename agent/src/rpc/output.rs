//! The Output stream.

use std::sync::Arc;

use futures_util::stream;
use husk_proto::agent::{OutputChunk, OutputRequest, ProcessId};
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use crate::agent::Agent;
use crate::process::Process;
use crate::process::output::Next;

/// What the RPC answers.
pub type Chunks = BoxStream<OutputChunk>;

struct Reader {
    process: Arc<Process>,
    number: u64,
    offset: u64,
}

/// Follows a process's output from the first request's offset on.
pub async fn follow(agent: &Agent, mut requests: Streaming<OutputRequest>) -> Result<Chunks, Status> {
    let first = requests.message().await?;
    let first = first.ok_or_else(|| Status::invalid_argument("the first request names no process"))?;
    let ProcessId { container_id, exec_id } =
        first.process.ok_or_else(|| Status::invalid_argument("the first request names no process"))?;
    let process = agent.container(&container_id)?.process(&exec_id)?;
    let number = process.output.start_reader(first.offset).map_err(|end| {
        Status::invalid_argument(format!("offset {} is beyond the output's end, {end}", first.offset))
    })?;

    let acknowledged = Arc::clone(&process);
    tokio::spawn(async move {
        // Ends with the stream, however that ends.
        while let Ok(Some(request)) = requests.message().await {
            acknowledged.output.acknowledge(request.offset);
        }
    });
    let reader = Reader { process, number, offset: first.offset };
    Ok(Box::pin(stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        Some(match reader.process.output.next(reader.number, reader.offset).await {
            Next::Chunk(chunk) if chunk.eof => (Ok(chunk), None),
            Next::Chunk(chunk) => {
                reader.offset = chunk.offset + chunk.data.len() as u64;
                (Ok(chunk), Some(reader))
            }
            Next::Replaced => (Err(Status::aborted("another reader has taken the output over")), None),
        })
    })))
}
