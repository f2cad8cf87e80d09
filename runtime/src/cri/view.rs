//! Records as the CRI shows them.

use husk_proto::cri;

use crate::store::{ContainerRecord, Phase, SandboxRecord};

/// READY only while there is a VM.
pub fn sandbox_state(record: &SandboxRecord) -> cri::PodSandboxState {
    match record.phase() {
        Phase::Running => cri::PodSandboxState::SandboxReady,
        _ => cri::PodSandboxState::SandboxNotready,
    }
}

pub fn sandbox(record: SandboxRecord) -> cri::PodSandbox {
    let state = sandbox_state(&record).into();
    let config = record.config.unwrap_or_default();
    cri::PodSandbox {
        id: record.id,
        metadata: config.metadata,
        state,
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.runtime_handler,
    }
}

pub fn sandbox_status(record: SandboxRecord) -> cri::PodSandboxStatus {
    let state = sandbox_state(&record).into();
    let config = record.config.unwrap_or_default();
    let security = config.linux.and_then(|linux| linux.security_context);
    let mut ips = record.ips.into_iter();
    let network = ips.next().map(|ip| cri::PodSandboxNetworkStatus {
        ip,
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    });
    cri::PodSandboxStatus {
        id: record.id,
        metadata: config.metadata,
        state,
        created_at: record.created_at,
        network: Some(network.unwrap_or_default()),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some(security.and_then(|s| s.namespace_options).unwrap_or_default()),
            }),
        }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: record.runtime_handler,
    }
}

/// In the CRI's words.
pub fn container_state(record: &ContainerRecord) -> cri::ContainerState {
    match record.phase() {
        Phase::Creating | Phase::Created => cri::ContainerState::ContainerCreated,
        Phase::Running => cri::ContainerState::ContainerRunning,
        Phase::Stopped | Phase::Removing => cri::ContainerState::ContainerExited,
    }
}

pub fn container(record: ContainerRecord) -> cri::Container {
    let state = container_state(&record).into();
    let config = record.config.unwrap_or_default();
    cri::Container {
        id: record.id,
        pod_sandbox_id: record.sandbox_id,
        metadata: config.metadata,
        image: config.image,
        image_ref: record.image_ref,
        state,
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: record.image_id,
    }
}

pub fn container_status(record: ContainerRecord) -> cri::ContainerStatus {
    let state = container_state(&record).into();
    let config = record.config.unwrap_or_default();
    let user = record.user.map(|user| cri::ContainerUser {
        linux: Some(cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.into_iter().map(i64::from).collect(),
        }),
    });
    cri::ContainerStatus {
        id: record.id,
        metadata: config.metadata,
        state,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: config.image,
        image_ref: record.image_ref,
        reason: record.reason,
        message: record.message,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: record.log_path,
        resources: Some(cri::ContainerResources {
            linux: config.linux.and_then(|linux| linux.resources),
            windows: None,
        }),
        image_id: record.image_id,
        user,
        stop_signal: 0,
    }
}

pub fn image(image: husk_images::Image) -> cri::Image {
    let user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default().to_owned();
    let uid = user.parse().ok().map(|value| cri::Int64Value { value });
    cri::Image {
        id: image.id,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size,
        username: if uid.is_some() { String::new() } else { user },
        uid,
        spec: None,
        pinned: image.pinned,
    }
}
