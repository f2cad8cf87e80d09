//! Attaching to a running container's own streams.

use husk_proto::agent;

use super::followers::Follower;
use super::process::{ProcessInput, process};
use crate::error::{Error, Result};
use crate::guest;
use crate::node::{Node, lock};

/// What an attached client has.
pub struct Attachment {
    /// The output from now on.
    pub output: Follower,
    /// Standard input and the terminal.
    pub input: ProcessInput,
    /// Standard input is for one client alone, and ends with it (`stdin_once`).
    pub once: Option<CloseOnDrop>,
}

/// Closes a process's standard input when it is dropped.
pub struct CloseOnDrop(ProcessInput);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let input = self.0.clone();
        tokio::spawn(async move { input.close().await });
    }
}

/// Attaches to a running container. `stdin`: the client has an input for it.
pub async fn attach(node: &Node, container_id: &str, stdin: bool) -> Result<Attachment> {
    let container = node.running_container(container_id)?;
    let record = container.record();
    let logger = lock(&container.logger).clone();
    let logger =
        logger.ok_or_else(|| Error::Unavailable(format!("container {} has no output now", container.id)))?;
    let output = logger.follow();
    let live = node.pod(&record.sandbox_id)?.live().await?;
    let agent = guest::connect_apart(&live.vm.vsock()).await?;
    let id: agent::ProcessId = process(&container.id);
    let input = ProcessInput::new(agent, id);
    let config = record.config.unwrap_or_default();
    // A terminal's input has no end: closed, it would be lost for those who attach later.
    let once =
        (stdin && config.stdin && config.stdin_once && !config.tty).then(|| CloseOnDrop(input.clone()));
    Ok(Attachment { output, input, once })
}
