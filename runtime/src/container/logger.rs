//! Carries a process's output from the agent into its log.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use husk_proto::agent;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::log_journal::{Journal, Resume};
use super::{log::LogEncoder, log_path, process};
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::{Container, Node};

/// A handle to a container's log writer.
#[derive(Clone)]
pub struct Logger {
    reopen: mpsc::Sender<oneshot::Sender<Result<()>>>,
}

impl Logger {
    /// Starts writing the output of `container`'s process, from where an earlier daemon's writer came to. The
    /// receiver resolves when all of the output is in the log.
    pub async fn start(
        node: &Arc<Node>,
        container: &Arc<Container>,
        mut agent: Guest,
    ) -> Result<(Logger, oneshot::Receiver<()>)> {
        let record = container.record();
        let directory = node
            .pod(&record.sandbox_id)
            .ok()
            .and_then(|pod| pod.record().config)
            .map(|config| config.log_directory)
            .unwrap_or_default();
        let mut sink = Sink { directory, path: record.log_path, file: None };
        if let Err(e) = sink.open() {
            tracing::error!(container = container.id, "{e}");
        }
        let journal_path = node.log_journal(&record.sandbox_id, &container.id);
        let (journal, Resume { offset, encoder }) = Journal::open(&journal_path, sink.file.as_ref())
            .map_err(|e| Error::io("open the log's journal", &journal_path, e))?;
        let (ack, acks) = mpsc::channel(16);
        let first = agent::OutputRequest { process: Some(process(&container.id)), offset };
        ack.send(first).await.map_err(|_| Error::Internal("the output stream is closed".into()))?;
        let output = agent
            .output(tonic::Request::new(ReceiverStream::new(acks)))
            .await
            .map_err(|status| guest::refusal("the guest gives no output", status))?
            .into_inner();
        let (reopen, reopens) = mpsc::channel(4);
        let (finished, done) = oneshot::channel();
        let writer = Writer { sink, journal, encoder, offset, ack, id: container.id.clone() };
        tokio::spawn(async move {
            writer.run(output, reopens).await;
            let _ = finished.send(());
        });
        Ok((Logger { reopen }, done))
    }

    /// Closes the log and opens it again by its name, as after a rotation.
    pub async fn reopen(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Error::State("the container has no output any more".into());
        self.reopen.send(answer).await.map_err(|_| Error::State("the container's log is closed".into()))?;
        answered.await.map_err(gone)?
    }
}

struct Sink {
    directory: String,
    path: String,
    file: Option<File>,
}

impl Sink {
    fn open(&mut self) -> Result<()> {
        if !self.path.is_empty() {
            self.file = Some(log_path::open(&self.directory, &self.path)?);
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let before = file.metadata().map(|meta| meta.len());
        file.write_all(lines).map_err(|e| {
            // No half line stays: what follows once there is room again must begin on a line of its own.
            if let Ok(before) = before {
                let _ = file.set_len(before);
            }
            Error::io("write", Path::new(&self.path), e)
        })
    }
}

struct Writer {
    sink: Sink,
    journal: Journal,
    encoder: LogEncoder,
    /// Bytes of the output that have been taken.
    offset: u64,
    ack: mpsc::Sender<agent::OutputRequest>,
    id: String,
}

impl Writer {
    async fn run(
        mut self,
        mut output: tonic::Streaming<agent::OutputChunk>,
        mut reopens: mpsc::Receiver<oneshot::Sender<Result<()>>>,
    ) {
        loop {
            tokio::select! {
                Some(answer) = reopens.recv() => {
                    let _ = answer.send(self.sink.open());
                }
                chunk = output.message() => match chunk {
                    Ok(Some(chunk)) if chunk.eof => break,
                    Ok(Some(chunk)) => self.chunk(chunk).await,
                    Ok(None) => break,
                    Err(status) => {
                        tracing::warn!(container = self.id, "the output stream broke: {}", status.code());
                        break;
                    }
                },
            }
        }
        let mut lines = Vec::new();
        self.encoder.finish(&timestamp(), &mut lines);
        self.write(&lines);
    }

    async fn chunk(&mut self, chunk: agent::OutputChunk) {
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        // What the agent sends is the guest's word: bytes that were taken already are not taken again.
        let known = self.offset.saturating_sub(chunk.offset);
        let Some(data) = usize::try_from(known).ok().and_then(|known| chunk.data.get(known..)) else {
            return;
        };
        self.offset = end;
        let mut lines = Vec::with_capacity(data.len() * 2);
        self.encoder.push(chunk.stream(), data, &timestamp(), &mut lines);
        self.write(&lines);
        let _ = self.ack.send(agent::OutputRequest { process: None, offset: self.offset }).await;
    }

    fn write(&mut self, lines: &[u8]) {
        if self.sink.file.is_none()
            && let Err(e) = self.sink.open()
        {
            tracing::error!(container = self.id, "{e}");
        }
        if let Err(e) = self.journal.intend(self.sink.file.as_ref(), lines.len(), self.offset, &self.encoder)
        {
            tracing::error!(container = self.id, "the log's journal: {e}");
        }
        if let Err(e) = self.sink.append(lines) {
            tracing::error!(container = self.id, "output is lost: {e}");
        }
    }
}

/// Now in the log's form; the host's clock, as the guest's is the tenant's to set.
fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
