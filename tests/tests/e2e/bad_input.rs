//! Requests that cannot be served: refused with the right code and the thing's name, nothing left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{Bed, container, expect_code, pod, step};
use tonic::{Code, Status};

async fn run(bed: &Bed, config: cri::PodSandboxConfig) -> Result<String, Status> {
    run_with(bed, config, "").await
}

async fn run_with(bed: &Bed, config: cri::PodSandboxConfig, handler: &str) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
    Ok(bed.client.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

async fn nothing_is_left(bed: &Bed) {
    let pods = bed.client.pods(cri::PodSandboxFilter::default()).await;
    assert!(pods.is_empty(), "{pods:?}");
    bed.check_clean().expect("nothing is left");
}

/// What is missing, too long or unknown.
pub async fn incomplete_requests(bed: Arc<Bed>) {
    let invalid = &[Code::InvalidArgument];
    let refused = bed.client.runtime().run_pod_sandbox(cri::RunPodSandboxRequest::default()).await;
    expect_code(refused, invalid, &["config"]);
    let config = cri::PodSandboxConfig { metadata: None, ..pod("bad") };
    expect_code(run(&bed, config).await, invalid, &["metadata"]);
    let mut config = pod("bad");
    config.metadata.get_or_insert_default().uid.clear();
    expect_code(run(&bed, config).await, invalid, &["uid"]);
    expect_code(run_with(&bed, pod("bad"), "no-such-handler").await, invalid, &["no-such-handler"]);
    let hostname = "h".repeat(65);
    let config = cri::PodSandboxConfig { hostname: hostname.clone(), ..pod("bad") };
    expect_code(run(&bed, config).await, invalid, &[&hostname]);
    for (host_port, container_port, named) in
        [(70_000, 80, "70000"), (8080, 0, "container port"), (8080, -1, "-1")]
    {
        let mut config = pod("bad");
        config.port_mappings = vec![cri::PortMapping { host_port, container_port, ..Default::default() }];
        expect_code(run(&bed, config).await, invalid, &[named]);
    }
    nothing_is_left(&bed).await;

    step("containers");
    let pod = bed.pod(pod("good")).await;
    let refused = pod.try_create(cri::ContainerConfig { metadata: None, ..container("bad", "true") }).await;
    expect_code(refused, invalid, &["metadata"]);
    let refused = pod.try_create(cri::ContainerConfig { image: None, ..container("bad", "true") }).await;
    expect_code(refused, &[Code::InvalidArgument, Code::NotFound], &["image"]);
    let left = bed.client.containers(cri::ContainerFilter::default()).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(pod.output("echo good").await, "good\n");
}

/// A pod in a VM has no namespace of the host's.
pub async fn host_namespaces(bed: Arc<Bed>) {
    let node = || cri::NamespaceMode::Node.into();
    for (name, options) in [
        ("network", cri::NamespaceOption { network: node(), ..Default::default() }),
        ("PID", cri::NamespaceOption { pid: node(), ..Default::default() }),
        ("IPC", cri::NamespaceOption { ipc: node(), ..Default::default() }),
    ] {
        step(name);
        let mut config = pod("host");
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options = Some(options);
        expect_code(run(&bed, config).await, &[Code::InvalidArgument, Code::Unimplemented], &[name]);
    }
    nothing_is_left(&bed).await;
}

/// A log is written below the pod's log directory, or not at all.
pub async fn log_paths(bed: Arc<Bed>) {
    let outside = bed.scratch("outside");
    let canary = outside.join("canary");
    fs::write(&canary, "untouched").expect("write the canary");

    step("a directory that is not one of the host");
    for directory in ["relative/logs", "/tmp/../etc"] {
        let config = cri::PodSandboxConfig { log_directory: directory.into(), ..pod("logs") };
        let outcome = match run(&bed, config.clone()).await {
            // It may also be told when the first log is asked for.
            Ok(id) => {
                let request = cri::CreateContainerRequest {
                    pod_sandbox_id: id,
                    config: Some(container("log", "true")),
                    sandbox_config: Some(config),
                };
                bed.client.runtime().create_container(request).await.map(|_| ())
            }
            Err(status) => Err(status),
        };
        expect_code(outcome, &[Code::InvalidArgument], &[directory]);
        bed.clear().await;
    }

    step("names that climb out");
    let pod = bed.pod(pod("logs")).await;
    for path in ["../escaped.log", "a/../../escaped.log", canary.to_str().expect("a path of text"), ".."] {
        let config = cri::ContainerConfig { log_path: path.into(), ..container("log", "echo escaped") };
        expect_code(pod.try_create(config).await, &[Code::InvalidArgument], &[path]);
    }

    step("links that lead out");
    let logs = std::path::Path::new(&pod.config.log_directory);
    fs::create_dir_all(logs).expect("make the log directory");
    symlink(&canary, logs.join("link.log")).expect("make a link");
    symlink(&outside, logs.join("directory")).expect("make a link");
    for path in ["link.log", "directory/new.log"] {
        let config = cri::ContainerConfig { log_path: path.into(), ..container("log", "echo escaped") };
        let outcome = match pod.try_create(config).await {
            Ok(container) => container.start().await,
            Err(status) => Err(status),
        };
        expect_code(outcome, &[Code::InvalidArgument, Code::FailedPrecondition, Code::Internal], &[path]);
    }
    assert_eq!(fs::read_to_string(&canary).expect("read the canary"), "untouched");
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 1, "a file was made outside");
    assert!(!logs.parent().expect("a parent").join("escaped.log").exists());
}

/// More than a message may hold; the daemon goes on.
pub async fn oversize_request(bed: Arc<Bed>) {
    let mut config = pod("large");
    config.annotations.insert("large".into(), "x".repeat(17 << 20));
    expect_code(run(&bed, config).await, &[Code::ResourceExhausted, Code::OutOfRange], &[]);
    nothing_is_left(&bed).await;

    step("a large one that is allowed");
    let mut config = pod("large");
    config.annotations.insert("large".into(), "x".repeat(1 << 20));
    let pod = bed.pod(config).await;
    assert_eq!(pod.status().await.annotations["large"].len(), 1 << 20);
}

/// Checkpoints are not served: that is said after what is wrong with the request itself.
pub async fn checkpoints(bed: Arc<Bed>) {
    let (mut runtime, unknown) = (bed.client.runtime(), "0123456789abcdef".repeat(4));
    let pod = bed.pod(pod("checkpoint")).await;
    let inside = pod.start(container("inside", "sleep 3600")).await;
    let (missing, unserved) = (&[Code::NotFound], &[Code::Unimplemented]);
    for (container_id, codes) in [(&unknown, missing), (&inside.id, unserved)] {
        let request =
            cri::CheckpointContainerRequest { container_id: container_id.clone(), ..Default::default() };
        expect_code(runtime.checkpoint_container(request).await, codes, &[container_id]);
    }
    for (pod, container, named, codes) in [
        (&unknown, &inside.id, &unknown, missing),
        (&pod.id, &unknown, &unknown, missing),
        (&pod.id, &inside.id, &pod.id, unserved),
    ] {
        let request = cri::CheckpointPodRequest {
            pod_sandbox_id: pod.clone(),
            container_ids: vec![container.clone()],
            ..Default::default()
        };
        expect_code(runtime.checkpoint_pod(request).await, codes, &[named]);
    }
    for (handler, code, named) in
        [("elsewhere", Code::InvalidArgument, "elsewhere"), ("husk", Code::Unimplemented, "/checkpoint")]
    {
        let request = cri::RestorePodRequest {
            checkpoint_path: "/checkpoint".into(),
            runtime_handler: handler.into(),
            ..Default::default()
        };
        expect_code(runtime.restore_pod(request).await, &[code], &[named]);
    }
}

/// What a container may ask for elsewhere, and not here yet.
pub async fn what_is_not_served(bed: Arc<Bed>) {
    let pod = bed.pod(pod("unserved")).await;
    let mut config = container("device", "true");
    config.cdi_devices = vec![cri::CdiDevice { name: "vendor.com/gpu=0".into() }];
    expect_code(pod.try_create(config).await, &[Code::Unimplemented], &["vendor.com/gpu=0"]);
    let left = bed.client.containers(cri::ContainerFilter::default()).await;
    assert!(left.is_empty(), "{left:?}");
}
