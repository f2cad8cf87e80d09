//! New limits of a pod that runs.

use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{Bed, expect_code, pod, step};
use tonic::Code;

/// They must fit the VM as it was made; what was accepted and what was made outlast the daemon.
pub async fn of_a_pod(bed: Arc<Bed>) {
    let memory =
        |mib: i64| cri::LinuxContainerResources { memory_limit_in_bytes: mib << 20, ..Default::default() };
    let mut config = pod("limits");
    config.linux = Some(cri::LinuxPodSandboxConfig {
        resources: Some(memory(128)),
        // 32 MiB of it are for what serves the VM on the host.
        overhead: Some(memory(96)),
        ..Default::default()
    });
    let pod = bed.pod(config).await;
    let update = async |id: &str, resources: cri::LinuxContainerResources, overhead| {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.into(),
            resources: Some(resources),
            overhead,
        };
        bed.client.runtime().update_pod_sandbox_resources(request).await
    };
    for mib in [100, 128, 0] {
        update(&pod.id, memory(mib), None).await.expect("limits that fit");
    }
    let cpu =
        |quota| cri::LinuxContainerResources { cpu_quota: quota, cpu_period: 100_000, ..Default::default() };
    update(&pod.id, cpu(80_000), None).await.expect("less than one vCPU");

    step("more than the VM has");
    let exhausted = &[Code::ResourceExhausted];
    expect_code(update(&pod.id, memory(129), None).await, exhausted, &["193 MiB", "192 MiB"]);
    expect_code(update(&pod.id, memory(0), Some(memory(97))).await, exhausted, &["193 MiB", "192 MiB"]);
    expect_code(update(&pod.id, cpu(350_000), None).await, exhausted, &["4 vCPUs", "made with 1"]);
    expect_code(
        update(&pod.id, memory(-1), None).await,
        &[Code::InvalidArgument],
        &["memory_limit_in_bytes"],
    );

    step("after a restart");
    update(&pod.id, memory(64), None).await.expect("limits that fit");
    bed.daemon.kill();
    bed.daemon.start().await;
    update(&pod.id, memory(128), None).await.expect("the VM is as large as it was");
    expect_code(update(&pod.id, memory(129), None).await, exhausted, &["193 MiB", "192 MiB"]);

    step("pods that are not there, or not ready");
    let unknown = "0123456789abcdef".repeat(4);
    expect_code(update(&unknown, memory(1), None).await, &[Code::NotFound], &[&unknown]);
    pod.stop().await;
    expect_code(update(&pod.id, memory(1), None).await, &[Code::FailedPrecondition], &[&pod.id]);
}
