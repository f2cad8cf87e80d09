//! Streams of lists: what the unary calls answer, in messages of bounded size.

use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, container, image, pod, step};
use tonic::{Response, Status, Streaming};

/// The messages of a stream that must end well; each has at least one item.
async fn lists<R, T>(answer: Result<Response<Streaming<R>>, Status>, items: fn(R) -> Vec<T>) -> Vec<Vec<T>> {
    let mut stream = answer.expect("the stream begins").into_inner();
    let mut lists = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        let list = items(message);
        assert!(!list.is_empty(), "an empty list");
        lists.push(list);
    }
    lists
}

/// Pods, containers and images, with filters.
pub async fn as_the_unary_calls(bed: Arc<Bed>) {
    let (one, two) = tokio::join!(bed.pod(pod("one")), bed.pod(pod("two")));
    two.stop().await;
    for _ in 0..4 {
        let mut config = container("large", "true");
        config.annotations.insert("large".into(), "x".repeat(600 << 10));
        one.create(config).await;
    }
    let mut runtime = bed.client.runtime();

    step("pods");
    let ready = cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady.into() };
    for (filter, count) in [
        (cri::PodSandboxFilter::default(), 2),
        (cri::PodSandboxFilter { state: Some(ready), ..Default::default() }, 1),
        (cri::PodSandboxFilter { id: "none".into(), ..Default::default() }, 0),
    ] {
        let request = cri::StreamPodSandboxesRequest { filter: Some(filter.clone()) };
        let streamed = lists(runtime.stream_pod_sandboxes(request).await, |m| m.pod_sandboxes).await.concat();
        assert_eq!(streamed, bed.client.pods(filter).await);
        assert_eq!(streamed.len(), count);
    }

    step("containers, which do not fit in one message");
    let request = cri::StreamContainersRequest { filter: None };
    let streamed = lists(runtime.stream_containers(request).await, |m| m.containers).await;
    assert_eq!(streamed.len(), 4, "one and a half of these containers make a message");
    assert_eq!(streamed.concat(), bed.client.containers(cri::ContainerFilter::default()).await);
    let filter = cri::ContainerFilter { pod_sandbox_id: two.id.clone(), ..Default::default() };
    let request = cri::StreamContainersRequest { filter: Some(filter) };
    assert!(lists(runtime.stream_containers(request).await, |m| m.containers).await.is_empty());

    step("images");
    let mut images = bed.client.images();
    for image in [None, Some(image(BUSYBOX)), Some(image("nobody/none:1"))] {
        let filter = Some(cri::ImageFilter { image });
        let unary = images.list_images(cri::ListImagesRequest { filter: filter.clone() }).await;
        let request = cri::StreamImagesRequest { filter };
        let streamed = lists(images.stream_images(request).await, |m| m.images).await.concat();
        assert_eq!(streamed, unary.expect("ListImages").into_inner().images);
    }

    step("figures");
    let running = one.start(container("running", "sleep 3600")).await;
    let request = cri::StreamContainerStatsRequest::default();
    let stats = lists(runtime.stream_container_stats(request).await, |m| m.container_stats).await.concat();
    let ids: Vec<String> = stats.into_iter().filter_map(|s| Some(s.attributes?.id)).collect();
    assert_eq!(ids, std::slice::from_ref(&running.id));
    let filter = cri::ContainerStatsFilter { pod_sandbox_id: two.id.clone(), ..Default::default() };
    let request = cri::StreamContainerStatsRequest { filter: Some(filter) };
    assert!(lists(runtime.stream_container_stats(request).await, |m| m.container_stats).await.is_empty());
    let request = cri::StreamPodSandboxStatsRequest::default();
    let stats =
        lists(runtime.stream_pod_sandbox_stats(request).await, |m| m.pod_sandbox_stats).await.concat();
    let ids: Vec<String> = stats.into_iter().filter_map(|s| Some(s.attributes?.id)).collect();
    assert_eq!(ids, std::slice::from_ref(&one.id));
    let request = cri::StreamPodSandboxMetricsRequest {};
    let metrics = runtime.stream_pod_sandbox_metrics(request).await;
    let metrics = lists(metrics, |m| m.pod_sandbox_metrics).await.concat();
    let ids: Vec<&String> = metrics.iter().map(|metrics| &metrics.pod_sandbox_id).collect();
    assert_eq!(ids, [&one.id]);
    assert_eq!(metrics[0].container_metrics.len(), 1);
    assert_eq!(metrics[0].container_metrics[0].container_id, running.id);
}
