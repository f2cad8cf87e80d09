//! Carries a process's output from the agent into its log, and to whoever is attached.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use husk_failpoint::reach;
use husk_proto::agent;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

use super::followers::{Follower, Followers};
use super::log_journal::{Journal, Resume};
use super::process::process;
use super::{log::LogEncoder, log_path};
use crate::error::{Error, Result};
use crate::guest::{self, Guest, Output};
use crate::node::{Container, Node};
use crate::observe::about;
use crate::store::ContainerRecord;

/// The wait before the agent is asked again after a broken connection.
pub const RETRY: Duration = Duration::from_millis(200);

/// A handle to a container's log writer.
#[derive(Clone)]
pub struct Logger {
    reopen: mpsc::Sender<oneshot::Sender<Result<()>>>,
    followers: Arc<Followers>,
}

impl Logger {
    /// Starts writing the output of `container`'s process, from where an earlier daemon's writer came to. The
    /// receiver resolves when all of the output is in the log.
    pub async fn start(
        node: &Arc<Node>,
        container: &Arc<Container>,
        agent: Guest,
    ) -> Result<(Logger, oneshot::Receiver<()>)> {
        let record = container.record();
        let mut sink = Sink::of(node, &record);
        if let Err(e) = sink.open() {
            tracing::error!(container = container.id, "{e}");
        }
        let journal_path = node.log_journal(&record.sandbox_id, &container.id);
        let (journal, Resume { offset, encoder }) = Journal::open(&journal_path, sink.file.as_ref())
            .map_err(|e| Error::io("open the log's journal", &journal_path, e))?;
        let followers = Arc::new(Followers::default());
        let mut writer = Writer {
            node: node.clone(),
            container: container.clone(),
            agent,
            sink,
            journal,
            encoder,
            offset,
            followers: followers.clone(),
            lost: 0,
            unnoted: false,
        };
        let stream =
            writer.connect().await.map_err(|status| guest::refusal("the guest gives no output", status))?;
        let (reopen, reopens) = mpsc::channel(4);
        let (finished, done) = oneshot::channel();
        let written = async move {
            writer.run(stream, reopens).await;
            let _ = finished.send(());
        };
        tokio::spawn(written.instrument(about(&record.sandbox_id, &container.id)));
        Ok((Logger { reopen, followers }, done))
    }

    /// Refuses a container whose log cannot be written.
    pub fn check(node: &Node, record: &ContainerRecord) -> Result<()> {
        Sink::of(node, record).open()
    }

    /// The output from now on, for one more reader.
    pub fn follow(&self) -> Follower {
        self.followers.add()
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
    fn of(node: &Node, record: &ContainerRecord) -> Sink {
        let config = node.pod(&record.sandbox_id).ok().and_then(|pod| pod.record().config);
        let directory = config.map(|config| config.log_directory).unwrap_or_default();
        Sink { directory, path: record.log_path.clone(), file: None }
    }

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
    node: Arc<Node>,
    container: Arc<Container>,
    agent: Guest,
    sink: Sink,
    journal: Journal,
    encoder: LogEncoder,
    /// Bytes of the output that have been taken.
    offset: u64,
    followers: Arc<Followers>,
    /// Bytes of lines that could not be written of late.
    lost: u64,
    /// Whether the journal has failed, which is told once.
    unnoted: bool,
}

impl Writer {
    /// Asks the agent for the output from where it was left.
    async fn connect(&mut self) -> std::result::Result<Output, tonic::Status> {
        Output::open(&mut self.agent, process(&self.container.id), self.offset).await
    }

    async fn run(mut self, mut stream: Output, mut reopens: mpsc::Receiver<oneshot::Sender<Result<()>>>) {
        loop {
            tokio::select! {
                Some(answer) = reopens.recv() => {
                    let _ = answer.send(self.sink.open());
                }
                chunk = stream.next() => match chunk {
                    Ok(Some(chunk)) => self.chunk(&stream, chunk).await,
                    Ok(None) => break,
                    Err(status) => match self.reconnect(&status).await {
                        Some(again) => stream = again,
                        None => break,
                    },
                },
            }
        }
        let mut lines = Vec::new();
        self.encoder.finish(&timestamp(), &mut lines);
        self.write(&lines);
        self.followers.end();
    }

    /// After a break the stream goes on where it was, as long as the pod lives.
    async fn reconnect(&mut self, broken: &tonic::Status) -> Option<Output> {
        let mut status = broken.clone();
        let mut told = false;
        while is_break(&status) && self.node.pod_is_live(&self.container).await {
            // The end of a pod that is stopped is no break.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    container = self.container.id,
                    "the output stream broke: {}",
                    status.message()
                );
            }
            tokio::time::sleep(RETRY).await;
            match self.connect().await {
                Ok(stream) => return Some(stream),
                Err(again) => status = again,
            }
        }
        None
    }

    async fn chunk(&mut self, stream: &Output, chunk: agent::OutputChunk) {
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
        self.followers.publish(chunk.stream(), data);
        stream.acknowledge(self.offset).await;
    }

    fn write(&mut self, lines: &[u8]) {
        let written = self.append(lines);
        reach(format_args!("wrote to a log"));
        // Once a time without room, whatever the tenant writes meanwhile.
        match written {
            Err(e) => {
                if self.lost == 0 {
                    tracing::error!(container = self.container.id, "output is lost from here on: {e}");
                }
                self.lost += lines.len() as u64;
            }
            Ok(()) if self.lost > 0 => {
                tracing::warn!(container = self.container.id, lost_bytes = self.lost, "the log goes on");
                self.lost = 0;
            }
            Ok(()) => {}
        }
    }

    fn append(&mut self, lines: &[u8]) -> Result<()> {
        if self.sink.file.is_none() {
            self.sink.open()?;
        }
        // Without a journal the next daemon does not know how far the log has come: that is worth less than the log.
        let noted = self.journal.intend(self.sink.file.as_ref(), lines.len(), self.offset, &self.encoder);
        reach(format_args!("wrote down what a log will have"));
        if let Err(e) = noted
            && !std::mem::replace(&mut self.unnoted, true)
        {
            tracing::error!(container = self.container.id, "the log's journal: {e}");
        }
        self.sink.append(lines)
    }
}

/// Whether a call failed on its way, so that the agent may still know the process.
pub fn is_break(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled)
}

/// Now in the log's form; the host's clock, as the guest's is the tenant's to set.
fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
