//! RuntimeService.

use std::collections::HashMap;
use std::sync::Arc;

use husk_proto::cri;
use husk_proto::cri::runtime_service_server::RuntimeService;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::work::{detached, for_caller};
use super::{checkpoint, chunks, events, info, list, metrics, pod_stats, stats, view};
use crate::config::CgroupDriver;
use crate::node::{Node, lock, now_nanos};
use crate::observe;
use crate::streaming::{Streaming, Work};

/// What both handlers can do.
const FEATURES: cri::RuntimeHandlerFeatures =
    cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };

/// The service, and the server of exec, attach and port-forward.
pub struct Runtime(pub Arc<Node>, pub Arc<Streaming>);

type Answer<T> = Result<Response<T>, Status>;

fn ok<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

impl Runtime {
    /// Says in the log and in traces which pod a call is about.
    fn about_pod(&self, id: &str) {
        observe::is_about(&Span::current(), &self.0, id, "");
    }

    /// The same of a container.
    fn about_container(&self, id: &str) {
        observe::is_about(&Span::current(), &self.0, "", id);
    }

    /// A streaming URL.
    async fn url(&self, work: Work) -> Result<String, Status> {
        let (pod, container) = work.ids();
        observe::is_about(&Span::current(), &self.0, pod, container);
        Ok(self.1.url(work).await?)
    }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        ok(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "husk".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let condition = |kind: &str, problem: Option<(String, String)>| {
            let (reason, message) = problem.clone().unwrap_or_default();
            cri::RuntimeCondition { r#type: kind.into(), status: problem.is_none(), reason, message }
        };
        let kvm = crate::host::kvm().err().map(|problem| ("KVMNotUsable".to_owned(), problem.to_string()));
        let network = match &self.0.network {
            None => Some(("NetworkDisabled".to_owned(), "husk was started without a network".to_owned())),
            Some(network) => {
                network.status().err().map(|e| ("NetworkPluginNotReady".to_owned(), e.to_string()))
            }
        };
        let handler = |name: &str| cri::RuntimeHandler { name: name.into(), features: Some(FEATURES) };
        let mut info = HashMap::new();
        if request.into_inner().verbose {
            info.insert("config".into(), format!("{:?}", self.0.config));
        }
        ok(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", kvm), condition("NetworkReady", network)],
            }),
            info,
            runtime_handlers: std::iter::once("").chain(self.0.config.handler_names()).map(handler).collect(),
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
        })
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let (node, undo, request) = (self.0.clone(), self.0.clone(), request.into_inner());
        let config = request.config.ok_or_else(|| Status::invalid_argument("config is missing"))?;
        let handler = request.runtime_handler;
        let pod_sandbox_id = for_caller(
            |caller| async move { node.run_sandbox(config, handler, &caller).await },
            |id| async move { undo.remove_sandbox(&id).await },
        )
        .await?;
        ok(cri::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let (node, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        self.about_pod(&id);
        detached(async move { node.stop_sandbox(&id).await }).await?;
        ok(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let (node, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        self.about_pod(&id);
        detached(async move { node.remove_sandbox(&id).await }).await?;
        ok(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let pod = self.0.pod(&request.pod_sandbox_id)?;
        self.about_pod(&pod.id);
        let record = pod.record();
        let info = if request.verbose { info::sandbox(&self.0, &record) } else { HashMap::new() };
        let containers = self.0.containers_of(&pod.id);
        ok(cri::PodSandboxStatusResponse {
            status: Some(view::sandbox_status(record)),
            info,
            containers_statuses: containers.iter().map(|c| view::container_status(c.record())).collect(),
            timestamp: now_nanos(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        ok(cri::ListPodSandboxResponse { items: list::pods(&self.0, request.into_inner().filter) })
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<cri::StreamPodSandboxesResponse>> {
        let pods = list::pods(&self.0, request.into_inner().filter);
        ok(chunks::stream(pods, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let (node, undo, request) = (self.0.clone(), self.0.clone(), request.into_inner());
        let config = request.config.ok_or_else(|| Status::invalid_argument("config is missing"))?;
        let sandbox = request.pod_sandbox_id;
        self.about_pod(&sandbox);
        let container_id = for_caller(
            |caller| async move { node.create_container(&sandbox, config, &caller).await },
            |id| async move { undo.remove_container(&id).await },
        )
        .await?;
        ok(cri::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let (node, id) = (self.0.clone(), request.into_inner().container_id);
        self.about_container(&id);
        detached(async move { node.start_container(&id).await }).await?;
        ok(cri::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let (node, request) = (self.0.clone(), request.into_inner());
        self.about_container(&request.container_id);
        detached(async move { node.stop_container(&request.container_id, request.timeout).await }).await?;
        ok(cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let (node, id) = (self.0.clone(), request.into_inner().container_id);
        self.about_container(&id);
        detached(async move { node.remove_container(&id).await }).await?;
        ok(cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        ok(cri::ListContainersResponse { containers: list::containers(&self.0, request.into_inner().filter) })
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<BoxStream<cri::StreamContainersResponse>> {
        let containers = list::containers(&self.0, request.into_inner().filter);
        ok(chunks::stream(containers, |containers| cri::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let record = self.0.container(&request.container_id)?.record();
        self.about_container(&record.id);
        let info = if request.verbose { info::container(&self.0, &record) } else { HashMap::new() };
        ok(cri::ContainerStatusResponse { status: Some(view::container_status(record)), info })
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.0.container(&request.into_inner().container_id)?;
        self.about_container(&container.id);
        let stats = Some(stats::container(&self.0, &container).await?);
        ok(cri::ContainerStatsResponse { stats })
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        ok(cri::ListContainerStatsResponse { stats: stats::list(&self.0, request.into_inner().filter).await })
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<cri::StreamContainerStatsResponse>> {
        let stats = stats::list(&self.0, request.into_inner().filter).await;
        ok(chunks::stream(stats, |container_stats| cri::StreamContainerStatsResponse { container_stats }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let (node, request) = (self.0.clone(), request.into_inner());
        let limits = request.linux.ok_or_else(|| Status::invalid_argument("linux is missing"))?;
        self.about_container(&request.container_id);
        detached(async move { node.update_container_resources(&request.container_id, limits).await }).await?;
        ok(cri::UpdateContainerResourcesResponse {})
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let pod = self.0.pod(&request.into_inner().pod_sandbox_id)?;
        self.about_pod(&pod.id);
        let stats = Some(pod_stats::pod(&self.0, &pod).await?);
        ok(cri::PodSandboxStatsResponse { stats })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        ok(cri::ListPodSandboxStatsResponse {
            stats: pod_stats::list(&self.0, request.into_inner().filter).await,
        })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<cri::StreamPodSandboxStatsResponse>> {
        let stats = pod_stats::list(&self.0, request.into_inner().filter).await;
        ok(chunks::stream(stats, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        ok(cri::ListMetricDescriptorsResponse { descriptors: metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        ok(cri::ListPodSandboxMetricsResponse { pod_metrics: metrics::list(&self.0).await })
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<cri::StreamPodSandboxMetricsResponse>> {
        let metrics = metrics::list(&self.0).await;
        ok(chunks::stream(metrics, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<BoxStream<cri::ContainerEventResponse>> {
        ok(events::stream(self.0.events.listen()))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let (node, request) = (self.0.clone(), request.into_inner());
        self.about_pod(&request.pod_sandbox_id);
        detached(async move {
            let cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request;
            node.update_sandbox_resources(&pod_sandbox_id, resources, overhead).await
        })
        .await?;
        ok(cri::UpdatePodSandboxResourcesResponse {})
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        checkpoint::container(&self.0, request.get_ref())?;
        ok(cri::CheckpointContainerResponse {})
    }

    async fn checkpoint_pod(
        &self,
        request: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        checkpoint::pod(&self.0, request.get_ref())?;
        ok(cri::CheckpointPodResponse {})
    }

    async fn restore_pod(&self, request: Request<cri::RestorePodRequest>) -> Answer<cri::RestorePodResponse> {
        checkpoint::restore(&self.0, request.get_ref())?;
        ok(cri::RestorePodResponse::default())
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let cgroup_driver = match self.0.config.cgroup.driver {
            CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
        }
        .into();
        ok(cri::RuntimeConfigResponse { linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver }) })
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        self.about_container(&request.container_id);
        let outcome = self.0.exec_sync(&request.container_id, request.cmd, request.timeout).await?;
        ok(cri::ExecSyncResponse {
            stdout: outcome.stdout,
            stderr: outcome.stderr,
            exit_code: outcome.exit_code,
        })
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let url = self.url(Work::Exec(request.into_inner())).await?;
        ok(cri::ExecResponse { url })
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let url = self.url(Work::Attach(request.into_inner())).await?;
        ok(cri::AttachResponse { url })
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let url = self.url(Work::PortForward(request.into_inner())).await?;
        ok(cri::PortForwardResponse { url })
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let container = self.0.container(&request.into_inner().container_id)?;
        self.about_container(&container.id);
        let logger = lock(&container.logger).clone();
        let Some(logger) = logger else {
            return Err(Status::failed_precondition(format!("container {} is not running", container.id)));
        };
        logger.reopen().await?;
        ok(cri::ReopenContainerLogResponse {})
    }

    async fn update_runtime_config(
        &self,
        _: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        // Only a pod CIDR for runtimes that write their own CNI configuration; husk's is the operator's.
        ok(cri::UpdateRuntimeConfigResponse {})
    }
}
