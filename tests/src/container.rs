//! A container under test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_proto::cri;
use tonic::Status;

use crate::logs::{self, LogLine};
use crate::{Client, wait_for};

/// How long a container of a test may run.
const RUN_LIMIT: Duration = Duration::from_secs(180);

/// A container that was created.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its log's file.
    pub log: PathBuf,
    client: Client,
}

impl Container {
    pub(crate) fn new(client: &Client, id: String, log: PathBuf) -> Container {
        Container { id, log, client: client.clone() }
    }

    /// StartContainer.
    pub async fn start(&self) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: self.id.clone() };
        self.client.runtime().start_container(request).await.map(|_| ())
    }

    /// ContainerStatus.
    pub async fn status(&self) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let answer = self.client.runtime().container_status(request).await.expect("ContainerStatus");
        answer.into_inner().status.expect("ContainerStatus has a status")
    }

    /// Waits until it has exited.
    pub async fn wait(&self) -> cri::ContainerStatus {
        self.wait_within(RUN_LIMIT).await
    }

    /// The same with a limit of the caller's.
    pub async fn wait_within(&self, limit: Duration) -> cri::ContainerStatus {
        wait_for("the container's exit", limit, || async {
            Some(self.status().await).filter(|status| status.state() == cri::ContainerState::ContainerExited)
        })
        .await
    }

    /// Waits until its log has a line with this text.
    pub async fn wait_log(&self, text: &str) {
        let what = format!("{text:?} in {}", self.log.display());
        wait_for(&what, RUN_LIMIT, || async { self.text().contains(text).then_some(()) }).await;
    }

    /// ExecSync, whatever comes of it. `timeout` in seconds, 0: none.
    pub async fn try_exec(&self, args: &[&str], timeout: i64) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: args.iter().map(|arg| (*arg).to_owned()).collect(),
            timeout,
        };
        self.client.runtime().exec_sync(request).await.map(tonic::Response::into_inner)
    }

    /// What a line of shell prints in this container.
    pub async fn exec(&self, line: &str) -> String {
        let answer = self.try_exec(&["sh", "-c", line], 0).await.expect("ExecSync");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
        assert_eq!(answer.exit_code, 0, "{line:?} failed: {stdout}{stderr}");
        stdout.into_owned()
    }

    /// Makes `/tmp/end` in it, which is what it waits for. Its end may kill the command that makes it.
    pub async fn let_end(&self) {
        self.try_exec(&["touch", "/tmp/end"], 10).await.expect("ExecSync");
    }

    /// StopContainer. `timeout` in seconds.
    pub async fn stop(&self, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: self.id.clone(), timeout };
        self.client.runtime().stop_container(request).await.expect("StopContainer");
    }

    /// RemoveContainer.
    pub async fn remove(&self) {
        let request = cri::RemoveContainerRequest { container_id: self.id.clone() };
        self.client.runtime().remove_container(request).await.expect("RemoveContainer");
    }

    /// ReopenContainerLog.
    pub async fn reopen_log(&self) -> Result<(), Status> {
        let request = cri::ReopenContainerLogRequest { container_id: self.id.clone() };
        self.client.runtime().reopen_container_log(request).await.map(|_| ())
    }

    /// Its log.
    pub fn lines(&self) -> Vec<LogLine> {
        read(&self.log)
    }

    /// What it wrote to both streams, in the log's order.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&logs::joined(&self.lines(), None)).into_owned()
    }

    /// What it wrote to one stream.
    pub fn stream(&self, name: &str) -> Vec<u8> {
        logs::joined(&self.lines(), Some(name))
    }
}

/// Parses a log; none is an empty one.
fn read(path: &Path) -> Vec<LogLine> {
    logs::parse(&std::fs::read(path).unwrap_or_default())
}
