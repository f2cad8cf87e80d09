//! The host fails husk: its plugins, its KVM, the VMM.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_proto::cri;
use husk_tests::{Bed, Daemon, Pod, container, expect_code, pod, sh, short_dir, step, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use serde_json::json;
use tonic::{Code, Status};

/// Shell that prints the result of the plugin before, as a chained plugin must.
const PREVIOUS_RESULT: &str =
    "python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)[\"prevResult\"]))'";

async fn run(client: &husk_tests::Client, config: cri::PodSandboxConfig) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    Ok(client.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

/// A plugin refuses after another has made its part: that part is undone.
pub async fn plugin_fails_to_add(bed: Arc<Bed>) {
    let plugin = "case $CNI_COMMAND in
        ADD) echo '{\"cniVersion\": \"1.0.0\", \"code\": 111, \"msg\": \"no luck today\"}'; exit 1 ;;
        VERSION) echo '{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [\"1.0.0\"]}' ;;
        esac";
    bed.cni.plugin("unlucky", plugin);
    let list = bed.cni.configure("00-unlucky", &[bed.cni.bridge(), json!({"type": "unlucky"})]);
    let outcome = run(&bed.client, pod("unlucky")).await;
    fs::remove_file(list).expect("remove the configuration");
    expect_code(outcome, &[Code::Internal, Code::Unavailable], &["unlucky", "no luck today"]);
    assert!(bed.client.pods(cri::PodSandboxFilter::default()).await.is_empty());
    bed.check_clean().expect("nothing is left");

    step("a plugin that is not installed");
    let list = bed.cni.configure("00-absent", &[json!({"type": "absent"})]);
    let outcome = run(&bed.client, pod("absent")).await;
    fs::remove_file(list).expect("remove the configuration");
    expect_code(outcome, &[Code::Internal, Code::Unavailable], &["absent"]);
    bed.check_clean().expect("nothing is left");

    step("the next honest pod works");
    bed.pod(pod("lucky")).await;
}

/// A plugin that cannot delete: the stop says so, and the next one succeeds.
pub async fn plugin_fails_to_delete(bed: Arc<Bed>) {
    let dir = bed.scratch("plugin");
    let mark = dir.join("fail");
    fs::write(&mark, "").expect("write the mark");
    let script = format!(
        "case $CNI_COMMAND in
        ADD) {PREVIOUS_RESULT} ;;
        DEL) if [ -e {} ]; then echo '{{\"code\": 112, \"msg\": \"not yet\"}}'; exit 1; fi ;;
        esac",
        mark.display()
    );
    bed.cni.plugin("clinging", &script);
    // What comes last is deleted first.
    let list = bed.cni.configure("00-clinging", &[bed.cni.bridge(), json!({"type": "clinging"})]);
    let pod = bed.pod(pod("clinging")).await;
    fs::remove_file(list).expect("remove the configuration");
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    let outcome = bed.client.runtime().stop_pod_sandbox(request).await;
    expect_code(outcome, &[Code::Internal, Code::Unavailable], &["clinging", "not yet"]);
    assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxNotready);
    fs::remove_file(&mark).expect("remove the mark");
    pod.stop().await;
    bed.check_clean().expect("nothing is left");
}

/// A plugin that hangs is killed with what it started, at its limit; pods that are started meanwhile do not wait for it.
pub async fn plugin_hangs(bed: Arc<Bed>) {
    const LIMITED: &str = "[network]\ntimeout_secs = 30\n";
    const SECONDS: Duration = Duration::from_secs(30);
    bed.daemon.restart_with_instead("[network]\n", LIMITED).await;
    let mark = bed.scratch("plugin").join("hang-in-del");
    let script = format!(
        "hang() {{ sleep 54321 & sleep 54321; }}
        case $CNI_COMMAND:$CNI_ARGS in
        ADD:*K8S_POD_NAME=hangs-*) hang ;;
        ADD:*) {PREVIOUS_RESULT} ;;
        DEL:*K8S_POD_NAME=meanwhile-*) if [ -e {} ]; then hang; fi ;;
        esac",
        mark.display()
    );
    bed.cni.plugin("hanging", &script);
    // What comes last is deleted first.
    let list = bed.cni.configure("00-hanging", &[bed.cni.bridge(), json!({"type": "hanging"})]);
    let sleeping = || sh("pgrep -fc '^sleep 54321' || true").trim().parse::<u32>().expect("a number");
    let begun = Instant::now();
    let client = bed.client.clone();
    let hanging = tokio::spawn(async move { run(&client, pod("hangs")).await });
    wait_for("the plugin", SECONDS, || async { (sleeping() > 0).then_some(()) }).await;
    let meanwhile = bed.pod(pod("meanwhile")).await;
    assert_eq!(meanwhile.output("echo up").await, "up\n");

    step("in DEL");
    fs::write(&mark, "").expect("write the mark");
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: meanwhile.id.clone() };
    let outcome = bed.client.runtime().stop_pod_sandbox(request).await;
    expect_code(outcome, &[Code::DeadlineExceeded], &["hanging", "DEL", "30 s"]);
    let outcome = hanging.await.expect("the call's task");
    assert!((SECONDS..SECONDS * 4).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    expect_code(outcome, &[Code::DeadlineExceeded], &["hanging", "ADD", "30 s"]);
    assert_eq!(sleeping(), 0, "what the plugin started lives on");
    assert_eq!(bed.client.pods(cri::PodSandboxFilter::default()).await.len(), 1);
    fs::remove_file(&mark).expect("remove the mark");
    meanwhile.remove().await;
    fs::remove_file(list).expect("remove the configuration");
    bed.check_clean().expect("nothing is left");
    bed.daemon.restart_with_instead(LIMITED, "[network]\n").await;
}

/// Without a network configuration the node says that it is not ready.
pub async fn no_network_configured(bed: Arc<Bed>) {
    let hidden = bed.scratch("hidden").join("net.d");
    fs::rename(&bed.cni.conf_dir, &hidden).expect("hide the configuration");
    let status = bed.client.runtime().status(cri::StatusRequest::default()).await;
    let outcome = run(&bed.client, pod("no-network")).await;
    fs::rename(&hidden, &bed.cni.conf_dir).expect("show the configuration");
    let conditions = status.expect("Status").into_inner().status.unwrap_or_default().conditions;
    let ready = |kind: &str| conditions.iter().find(|c| c.r#type == kind).expect("the condition is told");
    assert!(ready("RuntimeReady").status);
    let network = ready("NetworkReady");
    let dir = bed.cni.conf_dir.display().to_string();
    assert!(!network.status && network.message.contains(&dir), "{network:?}");
    expect_code(outcome, &[Code::Internal, Code::Unavailable, Code::FailedPrecondition], &[&dir]);
    bed.check_clean().expect("nothing is left");
}

/// A command that runs its arguments where there is no /dev/kvm.
pub fn without_kvm() -> Command {
    let mut command = Command::new("unshare");
    let script = "
        mount -t tmpfs tmpfs /mnt
        mkdir -p /mnt/net
        for device in null zero full random urandom net/tun; do
          : >/mnt/$device
          mount --bind /dev/$device /mnt/$device
        done
        mount --rbind /mnt /dev
        exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command
}

/// A daemon on a host without KVM starts, says why it is not ready, and refuses pods.
pub async fn no_kvm(bed: Arc<Bed>) {
    let dir = short_dir();
    let daemon = Daemon::prepare(dir.path(), &bed.paths, &bed.cni, &bed.registry.url()).without_templates();
    daemon.start_under(without_kvm()).await;
    let client = daemon.client();
    let status = client.runtime().status(cri::StatusRequest::default()).await.expect("Status").into_inner();
    let conditions = status.status.unwrap_or_default().conditions;
    let runtime = conditions.iter().find(|c| c.r#type == "RuntimeReady").expect("the condition is told");
    assert!(!runtime.status && runtime.message.contains("/dev/kvm"), "{runtime:?}");
    expect_code(
        run(&client, pod("no-kvm")).await,
        &[Code::Unavailable, Code::FailedPrecondition],
        &["/dev/kvm"],
    );
    assert!(client.pods(cri::PodSandboxFilter::default()).await.is_empty());
    for left in [daemon.run.join("pods"), daemon.run.join("netns"), daemon.root.join("scratch")] {
        assert_eq!(fs::read_dir(&left).map_or(0, Iterator::count), 0, "{} is not empty", left.display());
    }
}

/// A VMM that dies takes its pod along, and no other; nobody takes it for success.
pub async fn vmm_killed(bed: Arc<Bed>) {
    let (victim, other) = tokio::join!(bed.pod(pod("victim")), bed.pod(pod("other")));
    let inside = victim.start(container("inside", "sleep 3600")).await;
    let beside = other.start(container("beside", "sleep 3600")).await;
    kill(ProcessId::from_raw(victim.vmm().await), Signal::SIGKILL).expect("kill the VMM");
    let status = inside.wait().await;
    assert!(status.exit_code != 0 && !status.reason.is_empty() && !status.message.is_empty(), "{status:?}");
    assert!(status.finished_at >= status.started_at, "{status:?}");
    wait_for("the pod to be not ready", Duration::from_secs(60), || async {
        (victim.status().await.state() == cri::PodSandboxState::SandboxNotready).then_some(())
    })
    .await;
    expect_code(inside.try_exec(&["true"], 5).await, &[Code::FailedPrecondition], &[&inside.id]);
    let refused = victim.try_create(container("late", "true")).await;
    expect_code(refused, &[Code::FailedPrecondition], &[&victim.id]);
    assert_eq!(beside.exec("echo alive").await, "alive\n");
    inside.remove().await;
    victim.stop().await;
    victim.remove().await;
    other.remove().await;
    bed.check_clean().expect("nothing is left");
}

/// A pod whose volumes' server dies says so, and how, and goes on without them; with another daemon as well.
pub async fn volume_server_killed(bed: Arc<Bed>) {
    let killed = async |pod: &Pod| {
        sh(&format!("pkill -KILL -f -- '--shared-dir [^ ]*{}'", pod.id));
        wait_for("the pod to tell of it", Duration::from_secs(20), || async {
            pod.describe().await.info.remove("message").filter(|message| message.contains("virtiofsd"))
        })
        .await
    };
    let with_volume = async |name: &str| {
        let pod = bed.pod(pod(name)).await;
        let mount = cri::Mount {
            host_path: bed.scratch("volume").display().to_string(),
            container_path: "/data".into(),
            ..Default::default()
        };
        let config = cri::ContainerConfig { mounts: vec![mount], ..container("volume", "sleep 3600") };
        let container = pod.start(config).await;
        (pod, container)
    };
    let ((first, inside), (second, _)) = tokio::join!(with_volume("first"), with_volume("second"));
    let message = killed(&first).await;
    assert!(message.contains("signal: 9"), "{message}");
    let told = |pod: &Pod| {
        let log = bed.daemon.log_tail();
        log.lines().any(|line| line.contains("WARN") && line.contains(&pod.id) && line.contains("virtiofsd"))
    };
    assert!(told(&first) && !told(&second), "{}", bed.daemon.log_tail());
    assert_eq!(
        inside.exec("echo alive").await,
        "alive
"
    );
    assert_eq!(second.describe().await.info["message"], "");

    step("one that another daemon started");
    bed.daemon.kill();
    bed.daemon.start().await;
    killed(&second).await;
    assert!(told(&second));
    for pod in [first, second] {
        pod.remove().await;
    }
}
