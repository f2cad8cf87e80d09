//! The daemon is killed: pods go on, and what was half done is undone.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, container, pod, step, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use tonic::Code;

/// A container writes on while the daemon is away; not a line is lost or written twice.
pub async fn pod_goes_on(bed: Arc<Bed>) {
    let pod = bed.pod(pod("survivor")).await;
    let line = "n=1; while [ ! -e /tmp/end ]; do echo $n; n=$((n + 1)); sleep 0.02; done; exit 6";
    let container = pod.start(container("counter", line)).await;
    let (vmm, ip) = (pod.vmm().await, pod.ip().await);
    for turn in 1..=3 {
        step(format!("kill -9, turn {turn}"));
        container.wait_log("\n").await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        bed.daemon.kill();
        tokio::time::sleep(Duration::from_millis(700)).await;
        bed.daemon.start().await;
        assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxReady);
        assert_eq!((pod.vmm().await, pod.ip().await), (vmm, ip.clone()));
        assert_eq!(container.status().await.state(), cri::ContainerState::ContainerRunning);
        assert_eq!(container.exec("echo exec").await, "exec\n");
    }
    step("a container that the new daemon starts");
    assert_eq!(pod.output("echo new").await, "new\n");

    container.let_end().await;
    let status = container.wait().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (6, "Error"));
    let text = container.text();
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.len() > 50, "only {} lines", numbers.len());
    let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, whole, "lines were lost or doubled");
}

/// A container and a VM that end while nobody looks.
pub async fn vmm_dies_meanwhile(bed: Arc<Bed>) {
    let (dying, living) = tokio::join!(bed.pod(pod("dying")), bed.pod(pod("living")));
    let inside = dying.start(container("inside", "sleep 3600")).await;
    let ending =
        living.start(container("ending", "while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 8")).await;
    ending.exec("(sleep 1; touch /tmp/end) >/dev/null 2>&1 &").await;
    let vmm = dying.vmm().await;
    bed.daemon.kill();
    kill(ProcessId::from_raw(vmm), Signal::SIGKILL).expect("kill the VMM");
    tokio::time::sleep(Duration::from_secs(2)).await;
    bed.daemon.start().await;

    step("the exit code that came meanwhile is not lost");
    let status = ending.wait().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (8, "Error"));
    step("a lost VM is told, and is no success");
    assert_eq!(dying.status().await.state(), cri::PodSandboxState::SandboxNotready);
    let status = inside.status().await;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert!(status.exit_code != 0 && !status.reason.is_empty(), "{status:?}");
    dying.stop().await;
    dying.remove().await;
}

/// Killed at one step after another of a pod's start: what it left is swept, and the same pod can be run.
pub async fn killed_in_the_middle(bed: Arc<Bed>) {
    let config = bed.with_logs(pod("middle"));
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    for delay in [20, 100, 300, 700, 1500] {
        step(format!("kill -9 after {delay} ms"));
        let (client, asked) = (bed.client.clone(), request.clone());
        let call = tokio::spawn(async move { client.runtime().run_pod_sandbox(asked).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        bed.daemon.kill();
        let answered = call.await.expect("the call's task");
        bed.daemon.start().await;
        let pods = bed.client.pods(cri::PodSandboxFilter::default()).await;
        match answered {
            Ok(answer) => assert_eq!(pods[0].id, answer.into_inner().pod_sandbox_id),
            // The connection breaks before, or in the middle of, the call.
            Err(status) => assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}"),
        }
        // A pod may have become ready just before: then it is whole, and removed like any other.
        for pod in pods {
            assert_eq!(pod.state(), cri::PodSandboxState::SandboxReady);
        }
        bed.clear().await;
        bed.check_clean().expect("nothing is left");
    }
    step("the same pod");
    let answer = wait_for("the pod", Duration::from_secs(60), || async {
        bed.client.runtime().run_pod_sandbox(request.clone()).await.ok()
    });
    answer.await;
}
