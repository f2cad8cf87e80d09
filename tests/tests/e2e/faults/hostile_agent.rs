//! Guests whose tenant owns the kernel, and so the agent: they end, hang, flood the host and lie to it
//! (`husk-hostile-agent`). Their own pods are lost, and nothing else is.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use husk_proto::cri;
use husk_tests::{Bed, Pod, Process, container, expect_code, pod, step, wait_for};
use tonic::Code;

const MODES: [&str; 6] = ["panics", "hangs", "silent", "babbles", "floods", "lies"];
/// What the daemon may take more of memory, KiB, whatever guests do.
const GROWTH_KIB: u64 = 128 << 10;

/// One file as an archive in cpio's "newc" format, which the kernel unpacks over what came before.
fn cpio(name: &str, content: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in [(name, content), ("TRAILER!!!", "")] {
        let mode = if content.is_empty() { 0 } else { 0o100_444 };
        let fields = [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
        for part in [format!("{name}\0"), content.to_owned()] {
            archive.extend_from_slice(part.as_bytes());
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
}

/// A handler for each mode, whose guests have the hostile agent.
fn handlers(bed: &Bed) -> String {
    let dir = bed.scratch("hostile");
    let plain = dir.join("plain.cpio");
    let script = bed.paths.checkout.join("guest-kernel/initramfs");
    let status = Command::new(script)
        .arg(bed.paths.program("husk-hostile-agent"))
        .arg(&plain)
        .status()
        .expect("run it");
    assert!(status.success());
    let handler = |mode: &&str| {
        let mut archive = fs::read(&plain).expect("the initramfs");
        archive.extend(cpio("mode", mode));
        let path = dir.join(format!("{mode}.cpio"));
        fs::write(&path, archive).expect("write the initramfs");
        let boot = if *mode == "silent" { 8 } else { 60 };
        let agent = if *mode == "hangs" { 4 } else { 30 };
        format!(
            "[handlers.{mode}]\ninitramfs = {path:?}\ntemplates = false\nmemory_mib = 128\n\
             boot_timeout_secs = {boot}\nagent_timeout_secs = {agent}\n"
        )
    };
    MODES.iter().map(handler).collect()
}

async fn run(bed: &Bed, mode: &str) -> Result<Pod, tonic::Status> {
    let config = bed.with_logs(pod(mode));
    let request =
        cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: mode.to_owned() };
    let answer = bed.client.runtime().run_pod_sandbox(request).await?;
    Ok(Pod::found(&bed.client, answer.into_inner().pod_sandbox_id, config))
}

/// Waits until a pod is told to be lost, and answers why.
async fn lost(pod: &Pod) -> String {
    wait_for("the pod to be not ready", Duration::from_secs(60), || async {
        (pod.status().await.state() == cri::PodSandboxState::SandboxNotready).then_some(())
    })
    .await;
    pod.describe().await.info.remove("message").expect("a reason")
}

/// Each of them beside a pod that goes on, and with a daemon that stays as small as it was.
pub async fn harms_nobody(bed: Arc<Bed>) {
    bed.daemon.restart_with("", &handlers(&bed)).await;
    let other = bed.pod(pod("other")).await;
    let beside = other.start(container("beside", "sleep 3600")).await;
    let daemon = || Process(i32::try_from(bed.daemon.pid()).expect("a process id"));
    let small = daemon().memory().rss;

    step("one whose kernel panics");
    let panics = run(&bed, "panics").await.expect("RunPodSandbox");
    let why = lost(&panics).await;
    assert!(why.contains("reset"), "{why}");

    step("one that hangs");
    let hangs = run(&bed, "hangs").await.expect("RunPodSandbox");
    let inside = hangs.try_create(container("inside", "true")).await;
    let why = lost(&hangs).await;
    assert!(why.contains("has not answered for 4 s"), "{why}");
    if let Ok(inside) = inside {
        assert_ne!(inside.status().await.state(), cri::ContainerState::ContainerRunning);
    }

    step("one that never says a word");
    expect_code(
        run(&bed, "silent").await.map(|pod| pod.id),
        &[Code::Internal, Code::DeadlineExceeded],
        &["8 s"],
    );

    step("one that does not speak the agent's language");
    let codes = [Code::Internal, Code::Unavailable, Code::DeadlineExceeded];
    expect_code(run(&bed, "babbles").await.map(|pod| pod.id), &codes, &["guest"]);

    step("one that floods");
    let floods = run(&bed, "floods").await.expect("RunPodSandbox");
    let inside = floods.start(container("inside", "true")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(inside.status().await.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(beside.exec("echo alive").await, "alive\n");
    floods.stop().await;

    step("one that lies");
    let lies = run(&bed, "lies").await.expect("RunPodSandbox");
    assert_eq!(lies.describe().await.info["machineId"], "");
    let inside = lies.start(container("inside", "true")).await;
    let status = inside.wait().await;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos());
    assert!((0..=255).contains(&status.exit_code), "{status:?}");
    assert!((status.started_at..=now.expect("before 2262")).contains(&status.finished_at), "{status:?}");
    let stats = cri::ListPodSandboxStatsRequest::default();
    let _ = bed.client.runtime().list_pod_sandbox_stats(stats).await.expect("ListPodSandboxStats");
    let exec = lies.start(container("second", "true")).await.try_exec(&["true"], 5).await;
    assert!(
        exec.is_err() || exec.as_ref().is_ok_and(|answer| (0..=255).contains(&answer.exit_code)),
        "{exec:?}"
    );

    step("the same for a daemon that comes back to it");
    bed.daemon.kill();
    bed.daemon.start().await;
    let states = bed.client.pods(cri::PodSandboxFilter::default()).await;
    assert!(states.iter().any(|pod| pod.id == other.id && pod.state() == cri::PodSandboxState::SandboxReady));

    step("all can be removed, and nobody else has noticed");
    for pod in [panics, hangs, floods, lies] {
        pod.remove().await;
    }
    assert_eq!(beside.exec("echo alive").await, "alive\n");
    let grown = daemon().memory().rss;
    assert!(grown < small + GROWTH_KIB, "the daemon grew from {small} to {grown} KiB");
    let log = bed.daemon.log_tail();
    assert!(!log.contains('\u{1b}') && !log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
    other.remove().await;
    bed.check_clean().expect("nothing is left");
    bed.daemon.restart_with("", "").await;
}
