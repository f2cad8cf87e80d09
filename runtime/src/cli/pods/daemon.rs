//! The running daemon, as it answers on its CRI socket. Its records are its alone as long as it lives.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_proto::cri;
use husk_proto::cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::find::Named;
use crate::config::Config;
use crate::error::{Error, Result};

/// How long an answer may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Which daemon a command asks.
#[derive(Debug, clap::Args)]
pub struct Whom {
    /// Unix socket of the daemon [default: socket of the configuration]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Whom {
    /// The daemon, which answers.
    ///
    /// # Errors
    /// When it does not, with what to do.
    pub async fn connect(self, config: &Config) -> Result<Daemon> {
        Daemon::connect(self.socket.unwrap_or_else(|| config.socket.clone())).await
    }
}

/// The daemon.
pub struct Daemon {
    runtime: RuntimeServiceClient<Channel>,
    socket: PathBuf,
}

impl Daemon {
    async fn connect(socket: PathBuf) -> Result<Daemon> {
        // A channel would tell just that it cannot connect.
        UnixStream::connect(&socket).await.map_err(|e| absent(&socket, &e))?;
        let to = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let to = to.clone();
            async move { UnixStream::connect(to).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://daemon.husk").timeout(CALL_LIMIT);
        // It connects again after a restart of the daemon.
        let channel = endpoint.connect_with_connector_lazy(connector);
        let runtime = RuntimeServiceClient::new(channel).max_decoding_message_size(crate::cri::MAX_MESSAGE);
        Ok(Daemon { runtime, socket })
    }

    /// All pods with their containers, by namespace and name, the oldest first of those with one name.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn pods(&self) -> Result<Vec<cri::PodSandboxStatusResponse>> {
        let mut pods = Vec::new();
        for pod in self.list_pods().await? {
            // One that is removed meanwhile is not there.
            pods.extend(self.pod(&pod.id).await?);
        }
        pods.sort_by_cached_key(|pod| {
            let status = pod.status.clone().unwrap_or_default();
            let metadata = status.metadata.unwrap_or_default();
            (metadata.namespace, metadata.name, status.created_at, status.id)
        });
        Ok(pods)
    }

    /// A pod, if there is one of this id.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn pod(&self, id: &str) -> Result<Option<cri::PodSandboxStatusResponse>> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        self.found(self.runtime.clone().pod_sandbox_status(request).await)
    }

    /// A container, if there is one of this id.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn container(&self, id: &str) -> Result<Option<cri::ContainerStatusResponse>> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        self.found(self.runtime.clone().container_status(request).await)
    }

    /// What all pods are called.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn names_of_pods(&self) -> Result<Vec<Named>> {
        Ok(self.list_pods().await?.iter().map(Named::pod).collect())
    }

    /// What all containers are called.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn names_of_containers(&self) -> Result<Vec<Named>> {
        let pods = self.list_pods().await?;
        let pods: HashMap<&str, &cri::PodSandbox> = pods.iter().map(|pod| (pod.id.as_str(), pod)).collect();
        let answer = self.runtime.clone().list_containers(cri::ListContainersRequest::default()).await;
        let containers = answer.map_err(|status| self.refused(&status))?.into_inner().containers;
        let named = |container: &cri::Container| {
            Some(Named::container(pods.get(container.pod_sandbox_id.as_str())?, container))
        };
        Ok(containers.iter().filter_map(named).collect())
    }

    async fn list_pods(&self) -> Result<Vec<cri::PodSandbox>> {
        let answer = self.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner().items)
    }

    fn found<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.refused(&status)),
        }
    }

    fn refused(&self, status: &Status) -> Error {
        let text = format!("the daemon on {} does not answer: {}", self.socket.display(), status.message());
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Error::Deadline(text),
            Code::Unavailable => Error::Unavailable(text),
            _ => Error::Internal(text),
        }
    }
}

/// Why there is no connection, and what to do.
fn absent(socket: &Path, error: &std::io::Error) -> Error {
    let socket = socket.display();
    Error::Unavailable(match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("the daemon's socket {socket} is for root alone: run this as root")
        }
        ErrorKind::NotFound => format!(
            "no daemon is on {socket}: start `husk serve`, or name the one that runs by its configuration (--config) \
             or its socket (--socket)"
        ),
        ErrorKind::ConnectionRefused => format!(
            "the daemon on {socket} has ended: start `husk serve` again; its pods go on without it, and `husk console` \
             shows their consoles"
        ),
        _ => format!("cannot reach the daemon on {socket}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_not_there_is_told_with_what_to_do() {
        for (kind, word) in [
            (ErrorKind::PermissionDenied, "as root"),
            (ErrorKind::NotFound, "--socket"),
            (ErrorKind::ConnectionRefused, "start `husk serve`"),
            (ErrorKind::Other, "cannot reach"),
        ] {
            let text = absent(Path::new("/run/x.sock"), &kind.into()).to_string();
            assert!(text.contains("/run/x.sock") && text.contains(word), "{text}");
        }
    }
}
