//! A pod of the load, and its life.

use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, Client, Container, Pod, container, pod, wait_for};

use crate::calls::Calls;

/// A pod's limit, MiB; its VM has 64 more.
const POD_MIB: i64 = 64;

/// How long the first template may be in the making.
const TEMPLATE: Duration = Duration::from_secs(120);

/// The lines that a container of a life prints.
const LINES: usize = 50;

/// A small pod of an unused name.
pub fn small(bed: &Bed) -> cri::PodSandboxConfig {
    let mut config = bed.with_logs(pod("load"));
    let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
    resources.memory_limit_in_bytes = POD_MIB << 20;
    config
}

/// Boots a pod and waits for the template that is made of its guest.
pub async fn first(bed: &Bed) {
    let pod = Pod::run(&bed.client, small(bed)).await;
    wait_for("a template", TEMPLATE, || async { (!bed.daemon.templates().is_empty()).then_some(()) }).await;
    // Its directory is there before it is whole: a clone proves it.
    wait_for("a clone", TEMPLATE, || async {
        let pod = Pod::run(&bed.client, small(bed)).await;
        let cloned = pod.is_clone().await;
        pod.stop().await;
        pod.remove().await;
        cloned.then_some(())
    })
    .await;
    pod.stop().await;
    pod.remove().await;
}

/// A pod with a container that runs a line of shell.
pub async fn begin(bed: &Bed, calls: &Calls, phase: &'static str, line: &str) -> (Pod, Container) {
    let pod = alone(bed, &bed.client, calls, phase).await;
    let container = add(&pod, calls, phase, line).await;
    (pod, container)
}

/// A pod without a container, of whichever runtime is asked.
pub async fn alone(bed: &Bed, client: &Client, calls: &Calls, phase: &'static str) -> Pod {
    let config = small(bed);
    calls.retried(phase, "RunPodSandbox", || Pod::try_run(client, "", config.clone())).await
}

/// One more container of a pod. One that could not be started stays as it is, and another is made, as kubelet does.
pub async fn add(pod: &Pod, calls: &Calls, phase: &'static str, line: &str) -> Container {
    let made = || async {
        let config = container("load", line);
        let container = calls.timed(phase, "CreateContainer", pod.try_create(config)).await?;
        calls.timed(phase, "StartContainer", container.start()).await?;
        Ok(container)
    };
    calls.retried(phase, "Create- and StartContainer", made).await
}

/// StopPodSandbox and RemovePodSandbox.
pub async fn end(pod: &Pod, calls: &Calls, phase: &'static str) {
    calls.timed(phase, "StopPodSandbox", pod.stop()).await;
    calls.timed(phase, "RemovePodSandbox", pod.remove()).await;
}

/// A whole life: a container that prints, whose log must be whole, and a command in one that runs.
pub async fn whole(bed: &Bed, calls: &Calls, phase: &'static str) {
    let (pod, runs) = begin(bed, calls, phase, "sleep 3600").await;
    let printing = add(&pod, calls, phase, &format!("seq {LINES}")).await;
    exec(&runs, calls, phase).await;
    let status = printing.wait().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "{}", pod.id);
    let whole: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
    assert_eq!(printing.text(), whole, "the log of {}", printing.id);
    end(&pod, calls, phase).await;
}

/// ExecSync.
pub async fn exec(container: &Container, calls: &Calls, phase: &'static str) {
    let answer = calls.retried(phase, "ExecSync", || container.try_exec(&["echo", "here"], 60)).await;
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (0, &b"here\n"[..]), "{}", container.id);
}
