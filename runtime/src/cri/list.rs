//! Lists of pods, containers and images: what the unary calls and the streams answer.

use std::collections::HashMap;

use husk_proto::cri;
use tonic::Status;

use super::view;
use crate::error::Error;
use crate::node::Node;
use crate::store::ContainerRecord;

/// Do the labels hold every one of the selector?
pub fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The pods that the filter lets through, the youngest first.
pub fn pods(node: &Node, filter: Option<cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
    let filter = filter.unwrap_or_default();
    let mut pods: Vec<cri::PodSandbox> = node
        .pods()
        .into_iter()
        .map(|pod| view::sandbox(pod.record()))
        .filter(|pod| pod.id.starts_with(&filter.id))
        .filter(|pod| filter.state.is_none_or(|wanted| wanted.state == pod.state))
        .filter(|pod| selected(&pod.labels, &filter.label_selector))
        .collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    pods
}

/// The containers that the filter lets through, the youngest first.
pub fn containers(node: &Node, filter: Option<cri::ContainerFilter>) -> Vec<cri::Container> {
    let filter = filter.unwrap_or_default();
    let in_filter = |record: &ContainerRecord| {
        record.sandbox_id.starts_with(&filter.pod_sandbox_id)
            && filter.state.is_none_or(|wanted| wanted.state == i32::from(view::container_state(record)))
    };
    let mut containers: Vec<cri::Container> = node
        .containers()
        .into_iter()
        .filter(|container| container.id.starts_with(&filter.id) && container.seen(in_filter))
        .map(|container| view::container(container.record()))
        .filter(|c| selected(&c.labels, &filter.label_selector))
        .collect();
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    containers
}

/// All images, or the one that the filter names.
pub fn images(node: &Node, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
    let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image);
    let images = match wanted.filter(|name| !name.is_empty()) {
        Some(name) => node.images.status(&name).map_err(Error::from)?.into_iter().collect(),
        None => node.images.list().map_err(Error::from)?,
    };
    Ok(images.into_iter().map(view::image).collect())
}
