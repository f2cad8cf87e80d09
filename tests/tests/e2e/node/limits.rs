//! New limits of a pod that runs: its VM grows and shrinks with them.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, Container, container, entries, expect_code, pod, step, wait_for};
use tonic::{Code, Status};

/// A guest gives memory back as soon as its kernel can spare it.
const PATIENCE: Duration = Duration::from_secs(90);

fn memory(mib: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources { memory_limit_in_bytes: mib << 20, ..Default::default() }
}

fn cpu(quota: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources { cpu_quota: quota, cpu_period: 100_000, ..Default::default() }
}

/// What the guest's kernel has, MiB. It keeps some of what its VM has for itself.
async fn guest_mib(container: &Container) -> i64 {
    let text = container.exec("awk '/MemTotal/ {print $2}' /proc/meminfo").await;
    text.trim().parse::<i64>().expect("a number of KiB") >> 10
}

async fn cpus(container: &Container) -> String {
    container.exec("grep -c ^processor /proc/cpuinfo").await.trim().to_owned()
}

async fn has_at_most(container: &Container, mib: i64) {
    let what = format!("a guest of {mib} MiB or less");
    wait_for(&what, PATIENCE, || async { (guest_mib(container).await <= mib).then_some(()) }).await;
}

async fn update_pod(
    bed: &Bed,
    id: &str,
    resources: cri::LinuxContainerResources,
    overhead: Option<cri::LinuxContainerResources>,
) -> Result<(), Status> {
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        resources: Some(resources),
        overhead,
    };
    bed.client.runtime().update_pod_sandbox_resources(request).await.map(|_| ())
}

async fn update_container(
    bed: &Bed,
    container: &Container,
    limits: cri::LinuxContainerResources,
) -> Result<(), Status> {
    let container_id = container.id.clone();
    let request =
        cri::UpdateContainerResourcesRequest { container_id, linux: Some(limits), ..Default::default() };
    bed.client.runtime().update_container_resources(request).await.map(|_| ())
}

/// The pod's own limits, as kubelet sets them; what was accepted outlasts the daemon.
pub async fn of_a_pod(bed: Arc<Bed>) {
    let mut config = pod("limits");
    config.linux = Some(cri::LinuxPodSandboxConfig {
        resources: Some(memory(128)),
        // 32 MiB of it are for what serves the VM on the host.
        overhead: Some(memory(96)),
        ..Default::default()
    });
    let pod = bed.pod(config).await;
    let witness = pod.start(container("witness", "sleep 10000")).await;
    let first = guest_mib(&witness).await;
    assert!((150..192).contains(&first), "{first} MiB of 192");
    assert_eq!(cpus(&witness).await, "1");

    step("it grows");
    update_pod(&bed, &pod.id, memory(512), None).await.expect("more memory");
    let grown = guest_mib(&witness).await;
    assert!((first + 350..=first + 384).contains(&grown), "{first} MiB, then {grown} MiB");
    update_pod(&bed, &pod.id, cpu(150_000), None).await.expect("a second vCPU");
    assert_eq!(cpus(&witness).await, "2");
    assert_eq!(guest_mib(&witness).await, grown);

    step("it shrinks");
    update_pod(&bed, &pod.id, memory(128), None).await.expect("less memory");
    has_at_most(&witness, first + 128).await;
    update_pod(&bed, &pod.id, cpu(50_000), None).await.expect("one vCPU");
    assert_eq!(cpus(&witness).await, "1");

    step("more than the VM can have");
    let exhausted = &[Code::ResourceExhausted];
    let much = memory(1 << 20);
    expect_code(
        update_pod(&bed, &pod.id, much, None).await,
        exhausted,
        &["1048640 MiB", "vm.max_memory_mib"],
    );
    let overhead = Some(memory(1 << 20));
    expect_code(update_pod(&bed, &pod.id, memory(0), overhead).await, exhausted, &["vm.max_memory_mib"]);
    expect_code(
        update_pod(&bed, &pod.id, cpu(950_000), None).await,
        exhausted,
        &["10 vCPUs", "can have 2", "vm.max_vcpus"],
    );
    let negative = update_pod(&bed, &pod.id, memory(-1), None).await;
    expect_code(negative, &[Code::InvalidArgument], &["memory_limit_in_bytes"]);

    step("after a restart");
    bed.daemon.kill();
    bed.daemon.start().await;
    update_pod(&bed, &pod.id, memory(384), None).await.expect("more memory");
    let grown = guest_mib(&witness).await;
    assert!(grown >= first + 230, "{first} MiB at first, {grown} MiB now");

    step("pods that are not there, or not ready");
    let unknown = "0123456789abcdef".repeat(4);
    let answer = update_pod(&bed, &unknown, memory(1), None).await;
    expect_code(answer, &[Code::NotFound], &[&unknown]);
    pod.stop().await;
    let answer = update_pod(&bed, &pod.id, memory(1), None).await;
    expect_code(answer, &[Code::FailedPrecondition], &[&pod.id]);
}

/// Containers' limits in a pod without any of its own: it has room for all of them, and not for long more.
pub async fn of_containers(bed: Arc<Bed>) {
    let pod = bed.pod(pod("room")).await;
    let witness = pod.start(container("witness", "sleep 10000")).await;
    let first = guest_mib(&witness).await;

    step("a container that needs more than there is");
    let mut config = container("large", "sleep 10000");
    let by_name = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let unified = by_name("memory.oom.group", "1");
    config.linux.get_or_insert_default().resources =
        Some(cri::LinuxContainerResources { unified, ..memory(400) });
    let large = pod.start(config).await;
    assert_eq!(large.exec("cat /sys/fs/cgroup/memory.oom.group").await, "1\n");
    let grown = guest_mib(&witness).await;
    assert!((first + 180..first + 240).contains(&grown), "{first} MiB, then {grown} MiB");

    step("it can use what it may");
    large.exec("dd if=/dev/zero of=/dev/null bs=280M count=1").await;

    step("its limit changes");
    update_container(&bed, &large, memory(700)).await.expect("more memory");
    let more = guest_mib(&witness).await;
    assert!(more >= grown + 280, "{grown} MiB, then {more} MiB");
    assert_eq!(large.exec("cat /sys/fs/cgroup/memory.max").await.trim(), (700_i64 << 20).to_string());
    update_container(&bed, &large, memory(64)).await.expect("less memory");
    has_at_most(&witness, first + 128).await;
    let beyond = update_container(&bed, &large, memory(1 << 20)).await;
    expect_code(beyond, &[Code::ResourceExhausted], &["vm.max_memory_mib"]);
    assert_eq!(large.exec("cat /sys/fs/cgroup/memory.max").await.trim(), (64_i64 << 20).to_string());

    step("parameters by name");
    let high = |name: &str| cri::LinuxContainerResources {
        unified: by_name(name, "33554432"),
        ..Default::default()
    };
    update_container(&bed, &large, high("memory.high")).await.expect("a parameter by name");
    assert_eq!(large.exec("cat /sys/fs/cgroup/memory.high").await, "33554432\n");
    let answer = update_container(&bed, &large, high("../memory.high")).await;
    expect_code(answer, &[Code::InvalidArgument], &["../memory.high"]);

    step("it goes");
    update_container(&bed, &large, memory(400)).await.expect("more memory");
    large.remove().await;
    has_at_most(&witness, first + 128).await;
}

/// MiB of its own that a VMM has, the guest's memory with it: Pss of the process.
fn pss_mib(vmm: i32) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{vmm}/smaps_rollup")).expect("read the VMM's memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line of the whole");
    line.trim().trim_end_matches(" kB").parse::<i64>().expect("a number of KiB") >> 10
}

/// What a guest has used and let go of is the host's again, in a VM that has booted as in a clone, and in the memory that
/// it boots with as in what it has plugged.
pub async fn free_memory_goes_back(bed: Arc<Bed>) {
    let mut config = pod("frees");
    config.linux.get_or_insert_default().resources = Some(memory(448));
    let mut clones = 0;
    for name in ["first", "second"] {
        let pod = bed.pod(config.clone()).await;
        let cloned = pod.is_clone().await;
        let vmm = pod.vmm().await;
        let container = pod.start(container(name, "sleep 3600")).await;
        let before = pss_mib(vmm);
        container.exec("dd if=/dev/zero of=/much bs=1M count=300 2>&1; sync").await;
        let used = pss_mib(vmm);
        assert!(used > before + 250, "{before} MiB, then {used} MiB with 300 MiB in use");
        container.exec("rm /much; sync").await;
        wait_for("free memory to come back", PATIENCE, || async move {
            (pss_mib(vmm) < before + 60).then_some(())
        })
        .await;
        step(format!("{before} MiB, {used} MiB, {} MiB; cloned: {cloned}", pss_mib(vmm)));
        clones += u32::from(cloned);
        let mut again = config.metadata.take().unwrap_or_default();
        again.name += "-again";
        config.metadata = Some(again);
        pod.remove().await;
        // The template that is made after the first, unless it is a clone itself.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let making = bed.daemon.run.join("templates");
        wait_for("the template", PATIENCE, || async { entries(&making).is_empty().then_some(()) }).await;
    }
    assert!(clones > 0, "no pod was a clone");
}
