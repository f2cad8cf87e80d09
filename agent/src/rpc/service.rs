//! The protocol's calls: who is meant, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::agent_server;
use husk_proto::agent::*;
use tonic::{Request, Response, Status, Streaming};

use super::output::{self, Chunks};
use super::port_forward::{self, Received};
use crate::agent::Agent;
use crate::error::{Error, Result as AgentResult};
use crate::fair_server;
use crate::power;
use crate::process::Process;
use crate::sandbox::{cpus, huge_pages, memory, queues};

/// How long the answer to Shutdown has for its way to the host.
const FAREWELL: Duration = Duration::from_millis(20);

type Answer<T> = Result<Response<T>, Status>;

/// The service.
pub struct Service(pub Arc<Agent>);

impl Service {
    fn process(&self, id: Option<ProcessId>) -> AgentResult<Arc<Process>> {
        let id = named(id)?;
        self.0.container(&id.container_id)?.process(&id.exec_id)
    }
}

fn named(id: Option<ProcessId>) -> AgentResult<ProcessId> {
    id.ok_or_else(|| Error::Invalid("the request names no process".into()))
}

/// Runs what must not stop half-way when its caller loses patience.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = AgentResult<T>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(e) => Err(Status::internal(format!("the agent failed: {e}"))),
    }
}

#[tonic::async_trait]
impl agent_server::Agent for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        let kernel = nix::sys::utsname::uname().map_err(|e| Status::internal(format!("uname: {e}")))?;
        Ok(Response::new(VersionResponse {
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel_version: kernel.release().to_string_lossy().into_owned(),
        }))
    }

    async fn configure_sandbox(
        &self,
        request: Request<ConfigureSandboxRequest>,
    ) -> Answer<ConfigureSandboxResponse> {
        let agent = Arc::clone(&self.0);
        let answer = whole(async move { agent.sandbox.configure(request.into_inner()).await }).await?;
        Ok(Response::new(answer))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let agent = Arc::clone(&self.0);
        let container = whole(async move { agent.create(request.into_inner()).await }).await?;
        Ok(Response::new(CreateContainerResponse { user: Some(container.user().clone()) }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let agent = Arc::clone(&self.0);
        let container = agent.container(&request.into_inner().id)?;
        let pid = whole(async move { container.start(&agent.tools, |id| agent.container(id)).await }).await?;
        Ok(Response::new(StartContainerResponse { pid }))
    }

    async fn delete_container(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Answer<DeleteContainerResponse> {
        let agent = Arc::clone(&self.0);
        whole(async move { agent.delete(&request.into_inner().id).await }).await?;
        Ok(Response::new(DeleteContainerResponse {}))
    }

    async fn update_container(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Answer<UpdateContainerResponse> {
        let UpdateContainerRequest { id, oci_resources } = request.into_inner();
        let container = self.0.container(&id)?;
        whole(async move { container.update(&oci_resources).await }).await?;
        Ok(Response::new(UpdateContainerResponse {}))
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Answer<ResizeResponse> {
        let ResizeRequest { cpus, memory_mib, huge_mib } = request.into_inner();
        let memory_mib = memory::wait_for(memory_mib).await?;
        // The kernel takes its time over each page and CPU.
        let work = move || {
            let (huge_mib, cpus) = (huge_pages::set_aside(huge_mib)?, cpus::set_online(cpus)?);
            fair_server::rest();
            queues::follow(cpus)?;
            Ok((huge_mib, cpus))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let done: AgentResult<_> = done.map_err(|e| Status::internal(format!("the agent failed: {e}")))?;
        let (huge_mib, cpus) = done?;
        Ok(Response::new(ResizeResponse { cpus, memory_mib, huge_mib }))
    }

    async fn list_containers(&self, _: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let containers = self.0.all().iter().map(|container| container.describe()).collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let agent = Arc::clone(&self.0);
        let request = request.into_inner();
        let container = agent.container(&request.container_id)?;
        let pid = whole(async move { container.exec(&agent.tools, request).await }).await?;
        Ok(Response::new(ExecResponse { pid }))
    }

    async fn signal(&self, request: Request<SignalRequest>) -> Answer<SignalResponse> {
        let SignalRequest { process, signal, all } = request.into_inner();
        let process = named(process)?;
        self.0.container(&process.container_id)?.signal(&process, signal, all)?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Answer<WaitResponse> {
        let exit = self.process(request.into_inner().process)?.wait().await?;
        Ok(Response::new(WaitResponse { exit: Some(exit) }))
    }

    async fn delete_process(&self, request: Request<DeleteProcessRequest>) -> Answer<DeleteProcessResponse> {
        let process = named(request.into_inner().process)?;
        if process.exec_id.is_empty() {
            let text = "a container's own process goes with the container (DeleteContainer)";
            return Err(Status::invalid_argument(text));
        }
        match self.0.container(&process.container_id) {
            Ok(container) => container.forget(&process.exec_id)?,
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Response::new(DeleteProcessResponse {}))
    }

    async fn output(&self, request: Request<Streaming<OutputRequest>>) -> Answer<Chunks> {
        Ok(Response::new(output::follow(&self.0, request.into_inner()).await?))
    }

    async fn write_stdin(&self, request: Request<WriteStdinRequest>) -> Answer<WriteStdinResponse> {
        let WriteStdinRequest { process, data, close } = request.into_inner();
        self.process(process)?.write_stdin(&data, close).await?;
        Ok(Response::new(WriteStdinResponse {}))
    }

    async fn resize_terminal(
        &self,
        request: Request<ResizeTerminalRequest>,
    ) -> Answer<ResizeTerminalResponse> {
        let ResizeTerminalRequest { process, size } = request.into_inner();
        let size = size.ok_or_else(|| Status::invalid_argument("the request gives no size"))?;
        self.process(process)?.resize(&size)?;
        Ok(Response::new(ResizeTerminalResponse {}))
    }

    async fn port_forward(&self, request: Request<Streaming<PortForwardRequest>>) -> Answer<Received> {
        Ok(Response::new(port_forward::forward(request.into_inner()).await?))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Answer<StatsResponse> {
        let container = self.0.container(&request.into_inner().container_id)?;
        Ok(Response::new(container.stats().await?))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        self.0.kill_all();
        tokio::spawn(async {
            tokio::time::sleep(FAREWELL).await;
            power::off()
        });
        Ok(Response::new(ShutdownResponse {}))
    }
}
