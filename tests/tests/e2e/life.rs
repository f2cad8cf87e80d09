//! Lists, states, and calls made twice or for what is not there.

use std::collections::HashMap;
use std::slice::from_ref;
use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{Bed, container, expect_code, pod, step};
use tonic::Code;

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Filters of both lists; labels and annotations as they were given.
pub async fn filters(bed: Arc<Bed>) {
    let (mut red, mut blue) = (pod("red"), pod("blue"));
    red.labels = labels(&[("colour", "red"), ("both", "yes")]);
    red.annotations = labels(&[("note", "a value with\nany \u{20ac} text")]);
    blue.labels = labels(&[("colour", "blue"), ("both", "yes")]);
    let (red, blue) = tokio::join!(bed.pod(red), bed.pod(blue));
    blue.stop().await;
    let ids = async |filter: cri::PodSandboxFilter| {
        let mut ids: Vec<String> = bed.client.pods(filter).await.into_iter().map(|pod| pod.id).collect();
        ids.sort();
        ids
    };
    let by_label = |pairs: &[(&str, &str)]| cri::PodSandboxFilter {
        label_selector: labels(pairs),
        ..Default::default()
    };
    let mut both = vec![red.id.clone(), blue.id.clone()];
    both.sort();
    assert_eq!(ids(Default::default()).await, both);
    assert_eq!(ids(by_label(&[("both", "yes")])).await, both);
    assert_eq!(ids(by_label(&[("both", "yes"), ("colour", "red")])).await, from_ref(&red.id));
    assert!(ids(by_label(&[("colour", "green")])).await.is_empty());
    assert_eq!(
        ids(cri::PodSandboxFilter { id: blue.id.clone(), ..Default::default() }).await,
        from_ref(&blue.id)
    );
    assert_eq!(
        ids(cri::PodSandboxFilter { id: blue.id[..12].into(), ..Default::default() }).await,
        from_ref(&blue.id)
    );
    for (state, id) in
        [(cri::PodSandboxState::SandboxReady, &red.id), (cri::PodSandboxState::SandboxNotready, &blue.id)]
    {
        let state = Some(cri::PodSandboxStateValue { state: state.into() });
        assert_eq!(ids(cri::PodSandboxFilter { state, ..Default::default() }).await, from_ref(id));
    }
    let status = red.status().await;
    assert_eq!((&status.labels, &status.annotations), (&red.config.labels, &red.config.annotations));

    step("containers");
    let mut config = container("labelled", "sleep 3600");
    config.labels = labels(&[("tier", "one")]);
    let running = red.start(config).await;
    let (exited, _) = red.complete(container("exited", "true")).await;
    let ids = async |filter: cri::ContainerFilter| {
        let mut ids: Vec<String> = bed.client.containers(filter).await.into_iter().map(|c| c.id).collect();
        ids.sort();
        ids
    };
    let mut both = vec![running.id.clone(), exited.id.clone()];
    both.sort();
    assert_eq!(
        ids(cri::ContainerFilter { pod_sandbox_id: red.id.clone(), ..Default::default() }).await,
        both
    );
    assert!(
        ids(cri::ContainerFilter { pod_sandbox_id: blue.id.clone(), ..Default::default() }).await.is_empty()
    );
    assert_eq!(
        ids(cri::ContainerFilter { id: exited.id.clone(), ..Default::default() }).await,
        from_ref(&exited.id)
    );
    let selector = labels(&[("tier", "one")]);
    let by_label = cri::ContainerFilter { label_selector: selector, ..Default::default() };
    assert_eq!(ids(by_label).await, from_ref(&running.id));
    let state = Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerExited.into() });
    assert_eq!(ids(cri::ContainerFilter { state, ..Default::default() }).await, from_ref(&exited.id));
}

/// Stopping and removing may be asked any number of times.
pub async fn idempotence(bed: Arc<Bed>) {
    let pod = bed.pod(pod("twice")).await;
    let container = pod.start(container("twice", "sleep 3600")).await;
    for _ in 0..2 {
        container.stop(1).await;
    }
    for _ in 0..2 {
        container.remove().await;
    }
    container.stop(1).await;
    for _ in 0..2 {
        pod.stop().await;
    }
    for _ in 0..2 {
        pod.remove().await;
    }
    pod.stop().await;
    bed.check_clean().expect("nothing is left");
}

/// What is not there is NOT_FOUND by its name, where the CRI does not call that success.
pub async fn unknown_ids(bed: Arc<Bed>) {
    let id = "0123456789abcdef".repeat(4);
    let mut runtime = bed.client.runtime();
    let names = [id.as_str()];
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    expect_code(runtime.pod_sandbox_status(request).await, &[Code::NotFound], &names);
    let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    expect_code(runtime.container_status(request).await, &[Code::NotFound], &names);
    let request = cri::StartContainerRequest { container_id: id.clone() };
    expect_code(runtime.start_container(request).await, &[Code::NotFound], &names);
    let request = cri::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: 1 };
    expect_code(runtime.exec_sync(request).await, &[Code::NotFound], &names);
    let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
    expect_code(runtime.reopen_container_log(request).await, &[Code::NotFound], &names);
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(container("nowhere", "true")),
        sandbox_config: Some(pod("nowhere")),
    };
    expect_code(runtime.create_container(request).await, &[Code::NotFound], &names);
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    runtime.stop_container(request).await.expect("StopContainer of what is not there");
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
    runtime.remove_pod_sandbox(request).await.expect("RemovePodSandbox of what is not there");

    step("an empty id is nobody's");
    let pod = bed.pod(pod("only")).await;
    let request = cri::PodSandboxStatusRequest::default();
    expect_code(runtime.pod_sandbox_status(request).await, &[Code::NotFound, Code::InvalidArgument], &[]);
    runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest::default()).await.ok();
    assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxReady);
}

/// A name is taken until its bearer is removed.
pub async fn same_name_twice(bed: Arc<Bed>) {
    let first = bed.pod(pod("name")).await;
    let request = cri::RunPodSandboxRequest { config: Some(first.config.clone()), ..Default::default() };
    expect_code(
        bed.client.runtime().run_pod_sandbox(request.clone()).await,
        &[Code::AlreadyExists],
        &[&first.id],
    );
    let config = container("name", "true");
    let holder = first.create(config.clone()).await;
    expect_code(first.try_create(config.clone()).await, &[Code::AlreadyExists], &[&holder.id]);
    holder.remove().await;
    first.create(config).await;

    step("two at once: one wins");
    first.remove().await;
    let (mut one, mut two) = (bed.client.runtime(), bed.client.runtime());
    let (one, two) = tokio::join!(one.run_pod_sandbox(request.clone()), two.run_pod_sandbox(request));
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    won.expect("one of the two RunPodSandbox");
    expect_code(lost, &[Code::AlreadyExists], &[]);
}

/// A stopped pod keeps its record, and nothing else.
pub async fn stopped_pod(bed: Arc<Bed>) {
    let pod = bed.pod(pod("stopped")).await;
    let container = pod.start(container("inside", "sleep 3600")).await;
    pod.stop().await;
    assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxNotready);
    let status = container.status().await;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(status.exit_code, 137);
    assert!(!status.reason.is_empty() && status.finished_at >= status.started_at, "{status:?}");
    let refused = pod.try_create(husk_tests::container("late", "true")).await;
    expect_code(refused, &[Code::FailedPrecondition], &[&pod.id]);
    expect_code(container.try_exec(&["true"], 0).await, &[Code::FailedPrecondition], &[&container.id]);
    bed.check_clean().expect("a stopped pod holds nothing of the host");
    container.remove().await;
    pod.remove().await;
    let left = bed.client.containers(cri::ContainerFilter::default()).await;
    assert!(left.is_empty(), "{left:?}");

    step("removing a pod that runs removes its containers");
    let pod = bed.pod(husk_tests::pod("forced")).await;
    let container = pod.start(husk_tests::container("inside", "sleep 3600")).await;
    pod.remove().await;
    let request = cri::ContainerStatusRequest { container_id: container.id, verbose: false };
    expect_code(bed.client.runtime().container_status(request).await, &[Code::NotFound], &[]);
    bed.check_clean().expect("nothing is left");
}

/// A container that failed is started anew beside its predecessor, as kubelet does.
pub async fn attempts(bed: Arc<Bed>) {
    let pod = bed.pod(pod("attempts")).await;
    let mut config = container("again", "echo attempt; [ -e /mark ] && exit 9; touch /mark; exit 1");
    for attempt in 0..3 {
        config.metadata.get_or_insert_default().attempt = attempt;
        config.log_path = format!("again/{attempt}.log");
        let (container, status) = pod.complete(config.clone()).await;
        assert_eq!(status.exit_code, 1, "attempt {attempt} finds a file of an earlier one");
        assert_eq!(status.metadata.map(|metadata| metadata.attempt), Some(attempt));
        assert_eq!(container.text(), "attempt\n");
        expect_code(container.start().await, &[Code::FailedPrecondition], &[&container.id]);
    }
    assert_eq!(bed.client.containers(cri::ContainerFilter::default()).await.len(), 3);
}
