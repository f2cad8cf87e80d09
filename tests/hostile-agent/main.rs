//! `husk-hostile-agent`: the agent of a guest whose tenant owns its kernel, and with it all that the host's daemon hears.
//! It is the init of a guest's initramfs in husk-agent's stead; what it does, the file `/mode` there says.
#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use husk_proto::agent::agent_server::{Agent, AgentServer};
use husk_proto::agent::*;
use husk_proto::{AGENT_MAX_MESSAGE, AGENT_PORT, READY_PORT, ReadyTimes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// How long one that turns bad was good: a slow host has its answers then.
const GOOD_TIME: Duration = Duration::from_secs(8);
/// The largest piece of output that an honest agent sends.
const CHUNK: usize = 64 << 10;

fn main() {
    let mode = std::fs::read_to_string("/mode").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(serve(mode.trim().to_owned())).expect("serve the host");
}

async fn serve(mode: String) -> io::Result<()> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))?;
    if mode == "silent" {
        return std::future::pending().await;
    }
    let mut word = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)).await?;
    // A host that does not want to know them has closed it.
    let _ = word.write_all(&ReadyTimes { init: u64::MAX, listening: 0 }.to_bytes()).await;
    if mode == "babbles" {
        return babble(listener).await;
    }
    let service = AgentServer::new(Hostile { mode }).max_encoding_message_size(usize::MAX);
    let served = Server::builder().add_service(service).serve_with_incoming(listener.incoming()).await;
    served.map_err(io::Error::other)
}

/// What is no HTTP/2, for ever.
async fn babble(listener: VsockListener) -> io::Result<()> {
    loop {
        let (mut connection, _) = listener.accept().await?;
        tokio::spawn(async move {
            let noise: Vec<u8> = (0..CHUNK).map(|n| (n * 31 % 251) as u8).collect();
            while connection.write_all(&noise).await.is_ok() {}
            let _ = connection.read(&mut [0]).await;
        });
    }
}

struct Hostile {
    mode: String,
}

impl Hostile {
    fn is(&self, mode: &str) -> bool {
        self.mode == mode
    }

    fn lies(&self) -> bool {
        self.is("lies")
    }

    /// Words that would fill a log, begin lines of their own there, and command a terminal.
    fn refuse<T>(&self) -> Result<Response<T>, Status> {
        Err(Status::not_found(format!(
            "no\n2026-01-01 ERROR it was the kubelet\u{1b}[2J{}",
            "x".repeat(1 << 12)
        )))
    }
}

fn ok<T>(answer: T) -> Result<Response<T>, Status> {
    Ok(Response::new(answer))
}

fn exit() -> Option<ExitStatus> {
    Some(ExitStatus { code: i32::MIN, lived_nanos: u64::MAX, oom_killed: false })
}

#[tonic::async_trait]
impl Agent for Hostile {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        ok(VersionResponse { agent_version: "9".repeat(1 << 20), kernel_version: "\u{1b}[2J".into() })
    }

    async fn configure_sandbox(
        &self,
        _: Request<ConfigureSandboxRequest>,
    ) -> Result<Response<ConfigureSandboxResponse>, Status> {
        match self.mode.as_str() {
            "panics" => drop(tokio::spawn(async {
                tokio::time::sleep(GOOD_TIME).await;
                // The kernel does not go on without its init.
                std::process::exit(1);
            })),
            "hangs" => drop(tokio::spawn(async {
                tokio::time::sleep(GOOD_TIME).await;
                // The only thread that there is.
                loop {
                    std::thread::park();
                }
            })),
            _ => {}
        }
        let machine_id = if self.lies() { "../".repeat(1 << 20) } else { "0".repeat(32) };
        ok(ConfigureSandboxResponse { machine_id })
    }

    async fn create_container(
        &self,
        _: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let groups = if self.lies() { vec![u32::MAX; 1 << 16] } else { Vec::new() };
        ok(CreateContainerResponse { user: Some(ResolvedUser { uid: u32::MAX, gid: u32::MAX, groups }) })
    }

    async fn start_container(
        &self,
        _: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        ok(StartContainerResponse { pid: u32::MAX })
    }

    async fn delete_container(
        &self,
        _: Request<DeleteContainerRequest>,
    ) -> Result<Response<DeleteContainerResponse>, Status> {
        if self.lies() { self.refuse() } else { ok(DeleteContainerResponse {}) }
    }

    async fn update_container(
        &self,
        _: Request<UpdateContainerRequest>,
    ) -> Result<Response<UpdateContainerResponse>, Status> {
        self.refuse()
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let one = |n: u32| Container {
            id: format!("../../{n}"),
            state: i32::MAX,
            pid: n,
            exit: exit(),
            exec_ids: vec!["../x".into(); 2],
        };
        ok(ListContainersResponse {
            containers: (0..if self.lies() { 50_000 } else { 0 }).map(one).collect(),
        })
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        ok(ExecResponse::default())
    }

    async fn signal(&self, _: Request<SignalRequest>) -> Result<Response<SignalResponse>, Status> {
        ok(SignalResponse {})
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        if self.is("floods") {
            return std::future::pending().await;
        }
        ok(WaitResponse { exit: exit() })
    }

    async fn delete_process(
        &self,
        _: Request<DeleteProcessRequest>,
    ) -> Result<Response<DeleteProcessResponse>, Status> {
        self.refuse()
    }

    async fn output(
        &self,
        _: Request<Streaming<OutputRequest>>,
    ) -> Result<Response<BoxStream<OutputChunk>>, Status> {
        if self.lies() {
            let chunk = |stream, offset, bytes: usize, eof| {
                Ok(OutputChunk { stream, offset, data: vec![b'\n'; bytes], time_nanos: i64::MIN, eof })
            };
            let chunks = [
                chunk(i32::MIN, u64::MAX, 1, false),
                chunk(1, 0, CHUNK, false),
                chunk(0, u64::MAX - 1, AGENT_MAX_MESSAGE * 2, false),
                chunk(7, 1 << 63, 0, true),
            ];
            return ok(Box::pin(stream::iter(chunks)));
        }
        // Nobody waits for what is acknowledged, and lines never end.
        let endless = stream::iter(0u64..).map(|n| {
            let offset = n * CHUNK as u64;
            Ok(OutputChunk { stream: 0, offset, data: vec![b'x'; CHUNK], time_nanos: 0, eof: false })
        });
        ok(Box::pin(endless))
    }

    async fn write_stdin(
        &self,
        _: Request<WriteStdinRequest>,
    ) -> Result<Response<WriteStdinResponse>, Status> {
        self.refuse()
    }

    async fn resize_terminal(
        &self,
        _: Request<ResizeTerminalRequest>,
    ) -> Result<Response<ResizeTerminalResponse>, Status> {
        self.refuse()
    }

    async fn port_forward(
        &self,
        _: Request<Streaming<PortForwardRequest>>,
    ) -> Result<Response<BoxStream<PortForwardResponse>>, Status> {
        self.refuse()
    }

    async fn resize(&self, _: Request<ResizeRequest>) -> Result<Response<ResizeResponse>, Status> {
        ok(ResizeResponse { cpus: u32::MAX, memory_mib: u32::MAX, huge_mib: u32::MAX })
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let device = DeviceUsage::default();
        ok(StatsResponse {
            time_nanos: i64::MIN,
            cpu_usage_nanos: u64::MAX,
            memory_usage_bytes: u64::MAX,
            memory_working_set_bytes: u64::MAX,
            pids: u64::MAX,
            writable_bytes: u64::MAX,
            devices: vec![device; 100_000],
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        self.refuse()
    }
}
