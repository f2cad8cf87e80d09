//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::{self, OutputStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::Node;
use crate::store::Phase;

/// The most output, in bytes a stream, that one ExecSync keeps; the rest is dropped, as containerd does.
const OUTPUT_LIMIT: usize = 16 << 20;

/// What came of it.
#[derive(Debug, Default)]
pub struct ExecOutcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// 0 to 255.
    pub exit_code: i32,
}

impl Node {
    /// Runs a command in a running container to its end. `timeout` in seconds, 0 or less: none.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        args: Vec<String>,
        timeout: i64,
    ) -> Result<ExecOutcome> {
        let container = self.container(id)?;
        let record = container.record();
        if record.phase() != Phase::Running {
            return Err(Error::State(format!("container {} is not running", container.id)));
        }
        if args.is_empty() {
            return Err(Error::Invalid("exec: the command is empty".into()));
        }
        let mut agent = self.pod(&record.sandbox_id)?.live().await?.guest;
        let process = agent::ProcessId {
            container_id: container.id.clone(),
            exec_id: uuid::Uuid::new_v4().simple().to_string(),
        };
        let request = agent::ExecRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            args,
            ..Default::default()
        };
        agent
            .exec(guest::request(request))
            .await
            .map_err(|status| guest::refusal("the command could not be started", status))?;
        let mut running = Running(Some((agent.clone(), process.clone())));
        let collected = match u64::try_from(timeout).ok().filter(|seconds| *seconds > 0) {
            None => collect(&mut agent, &process).await,
            Some(seconds) => {
                tokio::time::timeout(Duration::from_secs(seconds), collect(&mut agent, &process))
                    .await
                    .unwrap_or_else(|_| {
                        Err(Error::Deadline(format!(
                            "the command did not end within {seconds} s and was killed"
                        )))
                    })
            }
        };
        if collected.is_err() {
            kill(&mut agent, &process).await;
        }
        forget(&mut agent, process).await;
        running.0 = None;
        collected
    }
}

/// A command in the guest. Dropped while it runs, because the client has gone away, it is ended in the
/// background.
struct Running(Option<(Guest, agent::ProcessId)>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((mut agent, process)) = self.0.take() {
            tokio::spawn(async move {
                kill(&mut agent, &process).await;
                forget(&mut agent, process).await;
            });
        }
    }
}

async fn kill(agent: &mut Guest, process: &agent::ProcessId) {
    let signal = agent::SignalRequest { process: Some(process.clone()), signal: 9, all: false };
    let _ = agent.signal(guest::request(signal)).await;
    let wait = agent::WaitRequest { process: Some(process.clone()) };
    let _ = agent.wait(guest::request(wait)).await;
}

async fn forget(agent: &mut Guest, process: agent::ProcessId) {
    let delete = agent::DeleteProcessRequest { process: Some(process) };
    let _ = agent.delete_process(guest::request(delete)).await;
}

async fn collect(agent: &mut Guest, process: &agent::ProcessId) -> Result<ExecOutcome> {
    let lost = |status| guest::refusal("the command's output was lost", status);
    let (ack, acks) = mpsc::channel(16);
    let _ = ack.send(agent::OutputRequest { process: Some(process.clone()), offset: 0 }).await;
    let mut output =
        agent.output(tonic::Request::new(ReceiverStream::new(acks))).await.map_err(lost)?.into_inner();
    let mut outcome = ExecOutcome::default();
    while let Some(chunk) = output.message().await.map_err(lost)? {
        if chunk.eof {
            break;
        }
        let stream = match chunk.stream() {
            OutputStream::Stdout => &mut outcome.stdout,
            OutputStream::Stderr => &mut outcome.stderr,
        };
        let room = OUTPUT_LIMIT.saturating_sub(stream.len()).min(chunk.data.len());
        stream.extend_from_slice(&chunk.data[..room]);
        let offset = chunk.offset.saturating_add(chunk.data.len() as u64);
        let _ = ack.send(agent::OutputRequest { process: None, offset }).await;
    }
    let request = agent::WaitRequest { process: Some(process.clone()) };
    let exit = agent.wait(tonic::Request::new(request)).await.map_err(lost)?.into_inner().exit;
    outcome.exit_code = exit.map(|exit| exit.code.clamp(0, 255)).unwrap_or(255);
    Ok(outcome)
}
