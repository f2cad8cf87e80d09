//! Exec: a command in a running container.

use std::sync::Arc;

use bytes::Bytes;
use husk_proto::agent::OutputStream;
use husk_proto::cri;

use super::feed::feed;
use super::status;
use super::streams::{Output, Streams};
use crate::container::{ExecOptions, ExecProcess, lost};
use crate::error::{Error, Result};
use crate::node::Node;

/// Runs the command and tells how it ended. Dropped before, it ends the command.
pub async fn run(node: &Arc<Node>, request: cri::ExecRequest, mut streams: Streams) {
    let status = match execute(node, request, &mut streams).await {
        Ok(code) => status::exited(code),
        Err(e) => status::failed(&e),
    };
    end(&streams, status).await;
}

/// The last words of an exec or attach.
pub async fn end(streams: &Streams, status: Bytes) {
    for output in [&streams.stdout, &streams.stderr].into_iter().flatten() {
        output.finish().await;
    }
    if streams.error.write(status).await.is_ok() {
        streams.error.finish().await;
    }
}

/// Where a piece of output goes; `None`: the client has not asked for it.
pub fn destination(streams: &Streams, stream: OutputStream) -> Option<&Output> {
    match stream {
        OutputStream::Stdout => streams.stdout.as_ref(),
        OutputStream::Stderr => streams.stderr.as_ref(),
    }
}

async fn execute(node: &Arc<Node>, request: cri::ExecRequest, streams: &mut Streams) -> Result<i32> {
    let options = ExecOptions { args: request.cmd, tty: request.tty, stdin: request.stdin };
    let mut process = ExecProcess::start(node, &request.container_id, options).await?;
    let input = process.input();
    let (mut stdin, mut resize) = (streams.stdin.take(), streams.resize.take());
    let ended = tokio::select! {
        ended = copy(&mut process, streams) => ended,
        never = feed(&input, &mut stdin, &mut resize, true) => match never {},
    };
    // Failed, the process still runs: dropped, it is ended.
    let code = ended?;
    process.forget().await;
    Ok(code)
}

/// Copies the output to its end; answers the exit code.
async fn copy(process: &mut ExecProcess, streams: &Streams) -> Result<i32> {
    let gone = |_| Error::Unavailable("the client takes no more output".into());
    let mut output = process.output().await?;
    while let Some(chunk) = output.next().await.map_err(lost)? {
        let (stream, end) = (chunk.stream(), chunk.offset.saturating_add(chunk.data.len() as u64));
        if let Some(destination) = destination(streams, stream) {
            destination.write(chunk.data.into()).await.map_err(gone)?;
        }
        output.acknowledge(end).await;
    }
    process.wait().await
}
