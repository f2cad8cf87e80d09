//! The daemon is killed: pods go on, and what was half done is undone.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use husk_proto::cri;
use husk_tests::{Bed, container, pod, step};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;

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
    tokio::time::sleep(Duration::from_secs(3)).await;
    let back = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos());
    bed.daemon.start().await;

    step("the exit that came meanwhile is not lost: its code, and its time");
    let status = ending.wait().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (8, "Error"));
    assert!(status.started_at < status.finished_at, "{status:?}");
    assert!(status.finished_at < back.expect("before 2262"), "it ended before husk came back: {status:?}");
    step("a lost VM is told, and is no success");
    assert_eq!(dying.status().await.state(), cri::PodSandboxState::SandboxNotready);
    let status = inside.status().await;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert!(status.exit_code != 0 && !status.reason.is_empty(), "{status:?}");
    dying.stop().await;
    dying.remove().await;
}
