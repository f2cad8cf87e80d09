//! Requests, filled in as kubelet does.

use std::sync::atomic::{AtomicU32, Ordering};

use husk_proto::cri;

/// A shell and tools, as user root.
pub const BUSYBOX: &str = "docker.io/husk/busybox:latest";

/// A name that no other request of this process has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An image by its name.
pub fn image(name: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: name.into(), ..Default::default() }
}

/// A pod; [`crate::Bed::pod`] adds its log directory.
pub fn pod(prefix: &str) -> cri::PodSandboxConfig {
    let name = unique(prefix);
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            uid: format!("uid-{name}"),
            name: name.clone(),
            namespace: "test".into(),
            attempt: 0,
        }),
        hostname: name,
        ..Default::default()
    }
}

/// A container of the busybox image that runs a line of shell.
pub fn container(prefix: &str, line: &str) -> cri::ContainerConfig {
    let name = unique(prefix);
    cri::ContainerConfig {
        log_path: format!("{name}/0.log"),
        metadata: Some(cri::ContainerMetadata { name, attempt: 0 }),
        image: Some(image(BUSYBOX)),
        command: vec!["sh".into(), "-c".into(), line.into()],
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxContainerSecurityContext::default()),
        }),
        ..Default::default()
    }
}
