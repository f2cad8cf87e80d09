//! What the host does with a guest, in a few words.

use std::sync::atomic::{AtomicU32, Ordering};

use husk_proto::agent::agent_client::AgentClient;
use husk_proto::agent::*;
use husk_proto::{AGENT_MAX_MESSAGE, AGENT_PORT};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_vsock::{VsockAddr, VsockStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

use crate::vm::{self, CID, Guest};

pub struct Pod {
    agent: AgentClient<Channel>,
    count: AtomicU32,
}

/// All that a process has written, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub exit: ExitStatus,
}

/// The capabilities of the containers here.
const CAPABILITIES: [&str; 6] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD", "CAP_NET_BIND_SERVICE"];

impl Pod {
    pub async fn connect(_: &Guest) -> Self {
        Self { agent: client().await, count: AtomicU32::new(0) }
    }

    pub fn agent(&self) -> AgentClient<Channel> {
        self.agent.clone()
    }

    /// An id that nobody has had.
    pub fn new_id(&self) -> String {
        format!("c{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    pub async fn create(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        self.agent().create_container(request).await.map(tonic::Response::into_inner)
    }

    pub async fn start(&self, id: &str) -> Result<u32, Status> {
        let answer = self.agent().start_container(StartContainerRequest { id: id.into() }).await?;
        Ok(answer.into_inner().pid)
    }

    pub async fn delete(&self, id: &str) {
        self.agent().delete_container(DeleteContainerRequest { id: id.into() }).await.unwrap();
    }

    /// Creates and starts a container that runs a script; answers its id.
    pub async fn started(&self, script: &str) -> String {
        self.started_as(self.request(&["sh", "-c", script])).await
    }

    pub async fn started_as(&self, request: CreateContainerRequest) -> String {
        let id = request.id.clone();
        self.create(request).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    /// Runs a container to its end and deletes it.
    pub async fn run(&self, request: CreateContainerRequest) -> Outcome {
        let id = self.started_as(request).await;
        let outcome = self.outcome(&own(&id)).await;
        self.delete(&id).await;
        outcome
    }

    pub async fn run_script(&self, script: &str) -> Outcome {
        self.run(self.request(&["sh", "-c", script])).await
    }

    pub async fn exec(&self, request: ExecRequest) -> Result<u32, Status> {
        Ok(self.agent().exec(request).await?.into_inner().pid)
    }

    /// Runs a script in a container to its end.
    pub async fn exec_script(&self, id: &str, script: &str) -> Outcome {
        let request = self.exec_request(id, &["sh", "-c", script]);
        let process = ProcessId { container_id: id.into(), exec_id: request.exec_id.clone() };
        self.exec(request).await.unwrap();
        let outcome = self.outcome(&process).await;
        self.agent().delete_process(DeleteProcessRequest { process: Some(process) }).await.unwrap();
        outcome
    }

    pub fn exec_request(&self, id: &str, args: &[&str]) -> ExecRequest {
        ExecRequest {
            container_id: id.into(),
            exec_id: self.new_id(),
            args: strings(args),
            ..Default::default()
        }
    }

    pub async fn outcome(&self, process: &ProcessId) -> Outcome {
        let (stdout, stderr) = self.output(process, 0).await;
        let exit = self.wait(process).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome { stdout: text(stdout), stderr: text(stderr), exit }
    }

    pub async fn wait(&self, process: &ProcessId) -> ExitStatus {
        let answer = self.agent().wait(WaitRequest { process: Some(process.clone()) }).await.unwrap();
        answer.into_inner().exit.unwrap()
    }

    pub async fn signal(&self, process: &ProcessId, signal: u32) {
        let request = SignalRequest { process: Some(process.clone()), signal, all: false };
        self.agent().signal(request).await.unwrap();
    }

    pub async fn write(&self, process: &ProcessId, data: &str, close: bool) -> Result<(), Status> {
        let request = WriteStdinRequest { process: Some(process.clone()), data: data.into(), close };
        self.agent().write_stdin(request).await.map(drop)
    }

    /// Opens the output stream; the sender takes acknowledgements.
    pub async fn stream(
        &self,
        process: &ProcessId,
        offset: u64,
    ) -> Result<(mpsc::Sender<OutputRequest>, Streaming<OutputChunk>), Status> {
        let (acknowledge, requests) = mpsc::channel(16);
        acknowledge.send(OutputRequest { process: Some(process.clone()), offset }).await.unwrap();
        let chunks = self.agent().output(ReceiverStream::new(requests)).await?.into_inner();
        Ok((acknowledge, chunks))
    }

    /// Everything from `offset` on, by stream.
    pub async fn output(&self, process: &ProcessId, mut offset: u64) -> (Vec<u8>, Vec<u8>) {
        let (acknowledge, mut chunks) = self.stream(process, offset).await.unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let chunk = chunks.message().await.unwrap().expect("the stream ends with eof");
            assert_eq!(chunk.offset, offset, "no byte is missing and none comes twice");
            if chunk.eof {
                assert!(chunk.data.is_empty());
                assert!(chunks.message().await.unwrap().is_none());
                return (stdout, stderr);
            }
            offset += chunk.data.len() as u64;
            match chunk.stream() {
                OutputStream::Stdout => stdout.extend(chunk.data),
                OutputStream::Stderr => stderr.extend(chunk.data),
            }
            let _ = acknowledge.send(OutputRequest { process: None, offset }).await;
        }
    }

    /// A container that runs `args`, as the daemon describes it.
    pub fn request(&self, args: &[&str]) -> CreateContainerRequest {
        self.request_with(args, |_| {})
    }

    /// The same with a changed spec.
    pub fn request_with(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> CreateContainerRequest {
        let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
        let bind = |name: &str| {
            json!({"destination": format!("/etc/{name}"), "type": "bind", "source": format!("husk:{name}"),
                   "options": ["bind", "rw"]})
        };
        let kernel = ["nosuid", "noexec", "nodev"];
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "A=1"],
                "cwd": "/",
                "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
                "noNewPrivileges": false,
            },
            "root": {"path": "rootfs", "readonly": false},
            "mounts": [
                mount("/proc", "proc", &kernel),
                mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
                mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
                mount("/dev/mqueue", "mqueue", &kernel),
                mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
                mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
                bind("hostname"), bind("hosts"), bind("resolv.conf"),
            ],
            "linux": {
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/uptime", "/proc/kcore", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/sys"],
            },
        });
        change(&mut spec);
        CreateContainerRequest {
            id: self.new_id(),
            oci_spec: spec.to_string().into_bytes(),
            rootfs: Some(RootFs { image_serial: vm::IMAGE.into(), read_only: false, disk: None }),
            ..Default::default()
        }
    }
}

async fn client() -> AgentClient<Channel> {
    let channel = Endpoint::from_static("http://agent.husk")
        .connect_with_connector(tower::service_fn(|_: Uri| async {
            VsockStream::connect(VsockAddr::new(CID, AGENT_PORT)).await.map(TokioIo::new)
        }))
        .await
        .expect("the agent answers");
    AgentClient::new(channel)
        .max_decoding_message_size(AGENT_MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX)
}

/// A container's own process.
pub fn own(id: &str) -> ProcessId {
    ProcessId { container_id: id.into(), exec_id: String::new() }
}

pub fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The answer must be an error of that kind whose text holds `word`.
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, word: &str) {
    let status = answer.expect_err("the agent refuses");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(word), "{status}");
}
