//! The processes of containers, as the agent names and feeds them.

use std::sync::Arc;

use husk_proto::agent::{self, TerminalSize};

use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::{Container, Node};
use crate::store::Phase;

/// The most bytes of standard input that are sent to the agent at once.
const MAX_INPUT: usize = 64 << 10;

/// A container's own process, as the agent names it.
pub fn process(container_id: &str) -> agent::ProcessId {
    agent::ProcessId { container_id: container_id.into(), exec_id: String::new() }
}

impl Node {
    /// The container of that id, which must run.
    pub fn running_container(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.record().phase() {
            Phase::Running => Ok(container),
            phase => Err(Error::State(format!("container {} is not running but {phase:?}", container.id))),
        }
    }
}

/// The way to a process's standard input and terminal.
#[derive(Clone)]
pub struct ProcessInput {
    agent: Guest,
    id: agent::ProcessId,
}

impl ProcessInput {
    /// Of the process with that name.
    pub fn new(agent: Guest, id: agent::ProcessId) -> Self {
        ProcessInput { agent, id }
    }

    /// Writes all of it, as fast as the process reads.
    pub async fn write(&self, data: &[u8]) -> Result<()> {
        for part in data.chunks(MAX_INPUT) {
            self.send(part.to_vec(), false).await?;
        }
        Ok(())
    }

    /// Closes standard input; it may be closed already.
    pub async fn close(&self) {
        if let Err(e) = self.send(Vec::new(), true).await {
            tracing::debug!("closing standard input: {e}");
        }
    }

    async fn send(&self, data: Vec<u8>, close: bool) -> Result<()> {
        let request = agent::WriteStdinRequest { process: Some(self.id.clone()), data, close };
        // Without a deadline: a process may take its time to read.
        let written = self.agent.clone().write_stdin(tonic::Request::new(request)).await;
        written.map(drop).map_err(|status| guest::refusal("writing to standard input", status))
    }

    /// Sets the terminal's size.
    pub async fn resize(&self, size: TerminalSize) -> Result<()> {
        let request = agent::ResizeTerminalRequest { process: Some(self.id.clone()), size: Some(size) };
        let resized = guest::call(self.agent.clone().resize_terminal(guest::request(request))).await;
        resized.map(drop).map_err(|status| guest::refusal("setting the terminal's size", status))
    }
}
