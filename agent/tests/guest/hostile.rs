//! Requests that can never work, and tenants who want out.

use std::time::{Duration, Instant};

use husk_proto::agent::*;
use serde_json::json;
use tonic::Code;

use crate::pod::{Pod, own, refused};
use crate::vm::ODD_IMAGE;

pub async fn ids(pod: &Pod) {
    let long = "x".repeat(129);
    for id in ["", "..", "../x", "a/b", "a b", "a\0b", long.as_str()] {
        let request = CreateContainerRequest { id: id.into(), ..pod.request(&["true"]) };
        refused(pod.create(request).await, Code::InvalidArgument, "id");
    }
    let longest = CreateContainerRequest { id: "y".repeat(128), ..pod.request(&["echo", "fine"]) };
    assert_eq!(pod.run(longest).await.stdout, "fine\n");

    let request = pod.request(&["true"]);
    let id = request.id.clone();
    pod.create(request.clone()).await.unwrap();
    refused(pod.create(request).await, Code::AlreadyExists, &id);
    pod.delete(&id).await;
    let id = pod.started("sleep 1000").await;
    for exec_id in ["", "..", "a/b", long.as_str()] {
        let request = ExecRequest { exec_id: exec_id.into(), ..pod.exec_request(&id, &["true"]) };
        refused(pod.exec(request).await, Code::InvalidArgument, "id");
    }
    pod.delete(&id).await;
}

pub async fn specs(pod: &Pod) {
    let mut request = pod.request(&["true"]);
    request.oci_spec = b"{".to_vec();
    refused(pod.create(request.clone()).await, Code::InvalidArgument, "spec");
    request.rootfs = None;
    refused(pod.create(request).await, Code::InvalidArgument, "");
    let bind = |spec: &mut serde_json::Value| {
        spec["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/stolen", "type": "bind", "source": "/run/husk", "options": ["rbind"]}),
        );
    };
    refused(pod.create(pod.request_with(&["true"], bind)).await, Code::InvalidArgument, "/run/husk");
    refused(pod.create(pod.request(&[])).await, Code::InvalidArgument, "command");
    let mut stranger = pod.request(&["true"]);
    stranger.rootfs = Some(RootFs { image_serial: "no-such-disk".into(), read_only: false, disk: None });
    refused(pod.create(stranger).await, Code::NotFound, "no-such-disk");
    let mut escaping = pod.request(&["true"]);
    escaping.rootfs = Some(RootFs { image_serial: "../vda".into(), read_only: false, disk: None });
    refused(pod.create(escaping).await, Code::InvalidArgument, "../vda");
    // What only the start finds out.
    let nonsense =
        |spec: &mut serde_json::Value| spec["linux"]["resources"]["cpu"] = json!({"cpus": "900-901"});
    let request = pod.request_with(&["true"], nonsense);
    let id = request.id.clone();
    pod.create(request).await.unwrap();
    assert_eq!(pod.start(&id).await.unwrap_err().code(), Code::Internal);
    assert_eq!(pod.wait(&own(&id)).await.code, 128);
    pod.delete(&id).await;
}

pub async fn unknown(pod: &Pod) {
    let agent = || pod.agent();
    let process = Some(own("nobody"));
    let missing = Code::NotFound;
    refused(pod.start("nobody").await, missing, "nobody");
    refused(pod.exec(pod.exec_request("nobody", &["true"])).await, missing, "nobody");
    refused(agent().wait(WaitRequest { process: process.clone() }).await, missing, "nobody");
    refused(
        agent().signal(SignalRequest { process: process.clone(), signal: 9, all: true }).await,
        missing,
        "nobody",
    );
    refused(agent().stats(StatsRequest { container_id: "nobody".into() }).await, missing, "nobody");
    refused(pod.write(&own("nobody"), "x", false).await, missing, "nobody");
    refused(pod.stream(&own("nobody"), 0).await.map(drop), missing, "nobody");
    pod.delete("nobody").await;
    let execd = ProcessId { container_id: "nobody".into(), exec_id: "e".into() };
    agent().delete_process(DeleteProcessRequest { process: Some(execd) }).await.unwrap();

    let invalid = Code::InvalidArgument;
    refused(agent().wait(WaitRequest { process: None }).await, invalid, "process");
    refused(agent().signal(SignalRequest { process: None, signal: 9, all: false }).await, invalid, "process");
    refused(agent().output(tokio_stream::empty()).await, invalid, "process");
    let id = pod.started("sleep 1000").await;
    let unknown = ProcessId { container_id: id.clone(), exec_id: "e".into() };
    refused(agent().wait(WaitRequest { process: Some(unknown.clone()) }).await, missing, "\"e\"");
    refused(
        agent().signal(SignalRequest { process: Some(unknown), signal: 9, all: true }).await,
        invalid,
        "all",
    );
    refused(
        agent().delete_process(DeleteProcessRequest { process: Some(own(&id)) }).await,
        invalid,
        "DeleteContainer",
    );
    refused(
        agent().resize_terminal(ResizeTerminalRequest { process: Some(own(&id)), size: None }).await,
        invalid,
        "size",
    );
    refused(pod.exec(pod.exec_request(&id, &[])).await, invalid, "command");
    pod.delete(&id).await;
}

pub async fn states(pod: &Pod) {
    let request = pod.request(&["true"]);
    let id = request.id.clone();
    pod.create(request).await.unwrap();
    let wrong = Code::FailedPrecondition;
    refused(pod.exec(pod.exec_request(&id, &["true"])).await, wrong, "not running");
    let signal = SignalRequest { process: Some(own(&id)), signal: 9, all: false };
    refused(pod.agent().signal(signal).await, wrong, "not been started");
    pod.start(&id).await.unwrap();
    refused(pod.start(&id).await, wrong, "already");
    pod.wait(&own(&id)).await;
    refused(pod.exec(pod.exec_request(&id, &["true"])).await, wrong, "not running");
    pod.delete(&id).await;
}

pub async fn sizes(pod: &Pod) {
    let mut request = pod.request(&["true"]);
    request.oci_spec = vec![b' '; husk_proto::AGENT_MAX_MESSAGE];
    let status = pod.create(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    // The connection serves on.
    assert_eq!(pod.run_script("echo on").await.stdout, "on\n");
    let arguments = pod.request(&["sh", "-c", "exit $#", "x", &"y".repeat(200_000)]);
    let id = arguments.id.clone();
    pod.create(arguments).await.unwrap();
    refused(pod.start(&id).await, Code::FailedPrecondition, "Argument list too long");
    pod.delete(&id).await;
}

/// An image whose links lead to the agent's own files.
pub async fn links_in_the_image(pod: &Pod) {
    let odd = |args: &[&str]| {
        let mut request = pod.request(args);
        request.rootfs = Some(RootFs { image_serial: ODD_IMAGE.into(), read_only: false, disk: None });
        request
    };
    // Its /etc/passwd is a link out of the root: inside the root there is nothing at its end.
    let mut request = odd(&["true"]);
    request.user = Some(User { name: "root".into(), ..User::default() });
    refused(pod.create(request).await, Code::InvalidArgument, "root");
    // /dev is a link, /etc/hosts as well: the mounts stay in the container, or it does not start.
    let request = odd(&["cat", "/etc/hosts"]);
    let id = request.id.clone();
    pod.create(request).await.unwrap();
    match pod.start(&id).await {
        Ok(_) => assert!(pod.outcome(&own(&id)).await.stdout.contains("pod-one")),
        Err(status) => assert_eq!(status.code(), Code::Internal, "{status}"),
    }
    pod.delete(&id).await;
    // The guest's own files are what they were.
    assert_eq!(pod.run_script("cat /etc/hostname; ls /dev/null").await.stdout, "pod-one\n/dev/null\n");
}

/// Its processes are stopped, orphaned and full of output: the deletion ends all the same.
pub async fn dead_container(pod: &Pod) {
    let script = "(setsid sh -c 'yes & kill -STOP $$' &) ; trap '' TERM INT HUP; yes";
    let id = pod.started(script).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    pod.signal(&own(&id), 15).await;
    pod.delete(&id).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Directories deeper than any path can name.
pub async fn deep_tree(pod: &Pod) {
    let script =
        "long=$(printf 'd/%.0s' $(seq 1 1500)); mkdir -p a/$long b/$long && mv a b/$long && echo deep";
    let id = pod.started(script).await;
    let outcome = pod.outcome(&own(&id)).await;
    assert_eq!(outcome.stdout, "deep\n", "{outcome:?}");
    pod.agent().stats(StatsRequest { container_id: id.clone() }).await.unwrap();
    pod.delete(&id).await;
    assert_eq!(pod.run_script("echo on").await.stdout, "on\n");
}
