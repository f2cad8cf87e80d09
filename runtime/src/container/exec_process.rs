//! A command that was started in a running container.

use husk_failpoint::reach;
use husk_proto::agent;

use super::process::ProcessInput;
use crate::error::{Error, Result};
use crate::guest::{self, Guest, Output};
use crate::node::Node;

/// What is started, and with which streams.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// On a terminal of its own.
    pub tty: bool,
    /// With a standard input that can be written to.
    pub stdin: bool,
}

/// The command in the guest. Dropped before it is forgotten, because the client has gone away, it is ended in the
/// background.
pub struct ExecProcess {
    agent: Guest,
    id: agent::ProcessId,
    ended: bool,
}

impl ExecProcess {
    /// Starts the command.
    pub async fn start(node: &Node, container_id: &str, options: ExecOptions) -> Result<ExecProcess> {
        let container = node.running_container(container_id)?;
        if options.args.is_empty() {
            return Err(Error::Invalid("exec: the command is empty".into()));
        }
        let live = node.pod(&container.record().sandbox_id)?.live().await?;
        let agent = guest::connect_apart(&live.vm.vsock()).await?;
        let id = agent::ProcessId {
            container_id: container.id.clone(),
            exec_id: uuid::Uuid::new_v4().simple().to_string(),
        };
        let request = agent::ExecRequest {
            container_id: id.container_id.clone(),
            exec_id: id.exec_id.clone(),
            args: options.args,
            // As the container's own environment has it for a terminal.
            env: if options.tty { vec!["TERM=xterm".into()] } else { Vec::new() },
            tty: options.tty,
            stdin: options.stdin,
            size: None,
        };
        // Before the call: a client that goes away while it is under way must not leave a command behind.
        let mut process = ExecProcess { agent, id, ended: false };
        if let Err(status) = guest::call(process.agent.exec(guest::request(request))).await {
            // What the agent has refused does not run.
            process.ended =
                !super::logger::is_break(&status) && status.code() != tonic::Code::DeadlineExceeded;
            return Err(guest::refusal("the command could not be started", status));
        }
        reach(format_args!("started a command in the guest"));
        Ok(process)
    }

    /// Its standard input and terminal.
    pub fn input(&self) -> ProcessInput {
        ProcessInput::new(self.agent.clone(), self.id.clone())
    }

    /// Its output from the beginning.
    pub async fn output(&mut self) -> Result<Output> {
        Output::open(&mut self.agent, self.id.clone(), 0).await.map_err(lost)
    }

    /// Waits for its end and answers its exit code, 0 to 255.
    pub async fn wait(&mut self) -> Result<i32> {
        let request = agent::WaitRequest { process: Some(self.id.clone()) };
        let exit = self.agent.wait(tonic::Request::new(request)).await.map_err(lost)?.into_inner().exit;
        reach(format_args!("saw the end of a command"));
        Ok(exit.map_or(255, |exit| exit.code.clamp(0, 255)))
    }

    /// Kills it and waits for its end.
    pub async fn kill(&mut self) {
        kill(&mut self.agent, &self.id).await;
    }

    /// Forgets one that has ended.
    pub async fn forget(mut self) {
        forget(&mut self.agent, &self.id).await;
        self.ended = true;
    }
}

impl Drop for ExecProcess {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (mut agent, id) = (self.agent.clone(), self.id.clone());
        tokio::spawn(async move {
            kill(&mut agent, &id).await;
            forget(&mut agent, &id).await;
        });
    }
}

/// Ends commands that an earlier daemon has left in a container, in the background: their clients went with it.
pub fn end_commands(mut agent: Guest, container_id: &str, exec_ids: Vec<String>) {
    let container_id = container_id.to_owned();
    tokio::spawn(async move {
        for exec_id in exec_ids {
            let id = agent::ProcessId { container_id: container_id.clone(), exec_id };
            kill(&mut agent, &id).await;
            forget(&mut agent, &id).await;
        }
    });
}

/// A call that failed while the command ran.
pub fn lost(status: tonic::Status) -> Error {
    guest::refusal("the command's output was lost", status)
}

async fn kill(agent: &mut Guest, process: &agent::ProcessId) {
    let signal = agent::SignalRequest { process: Some(process.clone()), signal: 9, all: false };
    let _ = guest::call(agent.signal(guest::request(signal))).await;
    let wait = agent::WaitRequest { process: Some(process.clone()) };
    let _ = guest::call(agent.wait(guest::request(wait))).await;
    reach(format_args!("killed a command"));
}

async fn forget(agent: &mut Guest, process: &agent::ProcessId) {
    let delete = agent::DeleteProcessRequest { process: Some(process.clone()) };
    let _ = guest::call(agent.delete_process(guest::request(delete))).await;
    reach(format_args!("forgot a command"));
}
