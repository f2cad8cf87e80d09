//! A pod under test.

use std::path::Path;

use husk_proto::cri;

use crate::{Client, Container};

/// A pod that runs, or did.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// As it was asked for.
    pub config: cri::PodSandboxConfig,
    client: Client,
}

impl Pod {
    /// RunPodSandbox.
    pub async fn run(client: &Client, config: cri::PodSandboxConfig) -> Pod {
        let mut answer = Pod::try_run(client, "", config.clone()).await;
        // Emulated KVM loses a guest now and then: it triple-faults or hangs on its way up. Once is forgiven
        // there, as kubelet would.
        if let Err(status) = &answer
            && ["triple-faulted", "the guest was not up after"]
                .iter()
                .any(|end| status.message().contains(end))
            && std::env::var_os("HUSK_TESTBED_EMULATED").is_some()
        {
            crate::step(format!("once more: {}", status.message()));
            answer = Pod::try_run(client, "", config).await;
        }
        answer.expect("RunPodSandbox")
    }

    /// RunPodSandbox for a RuntimeClass's handler, whatever comes of it.
    pub async fn try_run(
        client: &Client,
        handler: &str,
        config: cri::PodSandboxConfig,
    ) -> Result<Pod, tonic::Status> {
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let answer = client.runtime().run_pod_sandbox(request).await?;
        Ok(Pod::found(client, answer.into_inner().pod_sandbox_id, config))
    }

    /// One that runs already.
    pub fn found(client: &Client, id: String, config: cri::PodSandboxConfig) -> Pod {
        Pod { id, config, client: client.clone() }
    }

    /// CreateContainer, whatever comes of it.
    pub async fn try_create(&self, config: cri::ContainerConfig) -> Result<Container, tonic::Status> {
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self.client.runtime().create_container(request).await?;
        Ok(Container::new(&self.client, answer.into_inner().container_id, log))
    }

    /// CreateContainer.
    pub async fn create(&self, config: cri::ContainerConfig) -> Container {
        self.try_create(config).await.expect("CreateContainer")
    }

    /// CreateContainer and StartContainer.
    pub async fn start(&self, config: cri::ContainerConfig) -> Container {
        let container = self.create(config).await;
        container.start().await.expect("StartContainer");
        container
    }

    /// A container, run to its end.
    pub async fn complete(&self, config: cri::ContainerConfig) -> (Container, cri::ContainerStatus) {
        let container = self.start(config).await;
        let status = container.wait().await;
        (container, status)
    }

    /// What a line of shell prints in a container of its own.
    pub async fn output(&self, line: &str) -> String {
        let (container, status) = self.complete(crate::container("output", line)).await;
        assert_eq!(status.exit_code, 0, "{line:?} failed: {}", container.text());
        container.text()
    }

    /// PodSandboxStatus, with the verbose part.
    pub async fn describe(&self) -> cri::PodSandboxStatusResponse {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        self.client.runtime().pod_sandbox_status(request).await.expect("PodSandboxStatus").into_inner()
    }

    /// Its status.
    pub async fn status(&self) -> cri::PodSandboxStatus {
        self.describe().await.status.expect("PodSandboxStatus has a status")
    }

    /// Its primary address.
    pub async fn ip(&self) -> String {
        let ip = self.status().await.network.map(|network| network.ip).unwrap_or_default();
        assert!(!ip.is_empty(), "pod {} has no address", self.id);
        ip
    }

    /// The process of its VMM.
    pub async fn vmm(&self) -> i32 {
        let info = self.describe().await.info;
        let pid = info.get("pid").and_then(|pid| pid.parse().ok());
        pid.unwrap_or_else(|| panic!("the verbose status has no pid: {info:?}"))
    }

    /// Whether its VM went on from a template.
    pub async fn is_clone(&self) -> bool {
        self.describe().await.info.get("cloned").expect("the verbose status says it") == "true"
    }

    /// StopPodSandbox.
    pub async fn stop(&self) {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.client.runtime().stop_pod_sandbox(request).await.expect("StopPodSandbox");
    }

    /// RemovePodSandbox.
    pub async fn remove(&self) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.client.runtime().remove_pod_sandbox(request).await.expect("RemovePodSandbox");
    }
}
