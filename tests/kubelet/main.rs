//! `husk-kubelet`: a real kubelet runs a node on husk. It is alone, without a cluster: its pods come from manifests in
//! a directory (static pods), and what it knows of them is asked by its own API. It runs in the test bed
//! (`make kubelet`).
#![forbid(unsafe_code)]

mod kubelet;
mod manifest;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, sh, step, wait_for};
use serde_json::Value;
use tokio::runtime::Runtime;

use kubelet::Kubelet;

/// An emulated host is slow.
const PATIENCE: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let runtime = Runtime::new().expect("start the async runtime");
    runtime.block_on(async {
        let bed = Bed::start(Some(&["busybox"])).await;
        let kubelet = Kubelet::start(&bed);
        one_pod(&bed, &kubelet).await;
    });
    println!("kubelet: all was as expected");
    ExitCode::SUCCESS
}

async fn one_pod(bed: &Bed, kubelet: &Kubelet) {
    let host = bed.scratch("host");
    // The pod's user writes to it.
    fs::set_permissions(&host, fs::Permissions::from_mode(0o777)).expect("let everybody write");
    step("a pod's manifest is put down");
    kubelet.put("web", &manifest::web(&host));
    let pod = wait_for("the pod to be ready", PATIENCE, || async {
        kubelet
            .pod("web-testbed")
            .filter(|pod| condition(pod, "Ready") == "True" && restarts(pod, "worker") == 1)
    })
    .await;
    assert_eq!(pod["status"]["phase"], "Running");
    let ip = text(&pod["status"]["podIP"]);
    assert!(!ip.is_empty(), "{pod}");
    let worker = container(&pod, "worker");
    assert_eq!(worker["lastState"]["terminated"]["exitCode"], 7, "{worker}");
    assert_eq!(text(&worker["lastState"]["terminated"]["message"]), "no second time yet", "{worker}");
    let init = &pod["status"]["initContainerStatuses"][0];
    assert_eq!(init["state"]["terminated"]["reason"], "Completed", "{init}");

    step("its server answers, by the pod's address and by the host's port");
    let page = "made by the init container\n";
    assert_eq!(sh(&format!("curl -s --max-time 30 http://{ip}:8080/index.html")), page);
    assert_eq!(sh("curl -s --max-time 30 http://127.0.0.1:18080/index.html"), page);

    step("kubelet runs commands and reads logs");
    let run = |line: &str| kubelet.run("web-testbed", "server", line);
    assert_ne!(run("uname -r"), sh("uname -r"), "the pod has a kernel of its own");
    assert_eq!(run("hostname").trim(), "web-host");
    let environment = run("env");
    let has = |line: &str| environment.lines().any(|known| known == line);
    assert!(has(&format!("POD_IP={ip}")) && has(&format!("MEMORY={}", 64 << 20)), "{environment}");
    assert_eq!(run("cat /sys/fs/cgroup/memory.max").trim(), (64 << 20).to_string());
    assert!(run("df /cache").contains("tmpfs"));
    assert_eq!(run("stat -c %g /data").trim(), "2000", "fsGroup");
    assert_eq!(run("id -u").trim(), "1000");
    let log = kubelet.log("web-testbed", "worker");
    assert_eq!(log, "the second time\n");

    step("kubelet's figures");
    wait_for("figures of the pod", PATIENCE, || async { kubelet.figures("web-testbed").then_some(()) }).await;

    step("husk is killed and started: kubelet sees the same containers go on");
    bed.daemon.kill();
    bed.daemon.start().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = kubelet.pod("web-testbed").expect("the pod is known");
    assert_eq!(condition(&after, "Ready"), "True");
    for name in ["server", "worker"] {
        assert_eq!(container(&after, name)["containerID"], container(&pod, name)["containerID"]);
        assert_eq!(restarts(&after, name), restarts(&pod, name));
    }

    step("a container whose liveness fails is started again");
    run("rm /tmp/alive");
    wait_for("the restart", PATIENCE, || async {
        kubelet
            .pod("web-testbed")
            .filter(|pod| restarts(pod, "server") == 1 && condition(pod, "Ready") == "True")
    })
    .await;

    step("the manifest is taken away");
    kubelet.remove("web");
    wait_for("the pod's end", PATIENCE, || async {
        let left = bed.client.pods(cri::PodSandboxFilter::default()).await;
        left.is_empty().then_some(())
    })
    .await;
    let farewell = fs::read_to_string(host.join("farewell")).expect("preStop has written");
    assert_eq!(farewell, "stopping\n");
    // kubelet and its own cgroups are still there; of husk's nothing is.
    let left = fs::read_dir(bed.daemon.run.join("pods")).map(Iterator::count).unwrap_or_default();
    assert_eq!(left, 0, "directories of pods are left");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .map(|c| text(&c["status"]))
        .unwrap_or_default()
}

fn container(pod: &Value, name: &str) -> Value {
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    statuses.into_iter().find(|status| status["name"] == name).unwrap_or_default()
}

fn restarts(pod: &Value, name: &str) -> u64 {
    container(pod, name)["restartCount"].as_u64().unwrap_or_default()
}
