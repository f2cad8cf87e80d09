//! The CRI's clients over the daemon's socket.

use std::path::Path;
use std::time::Duration;

use husk_proto::cri;
use husk_proto::cri::image_service_client::ImageServiceClient;
use husk_proto::cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// No call of a test may take longer.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// The largest answer, bytes: what kubelet and crictl allow.
const MAX_MESSAGE: usize = 16 << 20;

/// Both services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// A client of the runtime that listens on `socket`. It connects when it is used.
    pub fn new(socket: &Path) -> Client {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://husk.test").timeout(CALL_LIMIT);
        Client { channel: endpoint.connect_with_connector_lazy(connector) }
    }

    /// RuntimeService, for calls whose refusal is tested.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// ImageService.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Pulls an image; answers its reference.
    pub async fn pull(&self, name: &str) -> Result<String, Status> {
        let request = cri::PullImageRequest { image: Some(crate::image(name)), ..Default::default() };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    /// An image, if it is there.
    pub async fn image(&self, name: &str) -> Option<cri::Image> {
        let request = cri::ImageStatusRequest { image: Some(crate::image(name)), verbose: false };
        self.images().image_status(request).await.expect("ImageStatus").into_inner().image
    }

    /// The pods that a filter lets through.
    pub async fn pods(&self, filter: cri::PodSandboxFilter) -> Vec<cri::PodSandbox> {
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        self.runtime().list_pod_sandbox(request).await.expect("ListPodSandbox").into_inner().items
    }

    /// The figures of all pods.
    pub async fn pod_stats(&self) -> Vec<cri::PodSandboxStats> {
        let request = cri::ListPodSandboxStatsRequest::default();
        self.runtime().list_pod_sandbox_stats(request).await.expect("ListPodSandboxStats").into_inner().stats
    }

    /// The containers that a filter lets through.
    pub async fn containers(&self, filter: cri::ContainerFilter) -> Vec<cri::Container> {
        let request = cri::ListContainersRequest { filter: Some(filter) };
        self.runtime().list_containers(request).await.expect("ListContainers").into_inner().containers
    }
}

/// Checks that a call was refused with a code, and that the text names what it is about.
///
/// # Panics
/// When it was not.
#[track_caller]
pub fn expect_code<T: std::fmt::Debug>(outcome: Result<T, Status>, codes: &[Code], names: &[&str]) {
    match outcome {
        Ok(answer) => panic!("it must be refused with {codes:?}, but was answered: {answer:?}"),
        Err(status) => {
            let text = status.message();
            assert!(codes.contains(&status.code()), "{:?} instead of {codes:?}: {text}", status.code());
            for name in names {
                assert!(text.contains(name), "the text does not name {name:?}: {text:?}");
            }
        }
    }
}
