//! What is known of a pod and a container, for scripts: in the CRI's words, as crictl has them.

use std::collections::{BTreeMap, HashMap};

use husk_proto::cri;
use serde_json::{Map, Value, json};

use crate::config::HANDLER;

/// A pod and its containers.
pub fn pod(answer: &cri::PodSandboxStatusResponse) -> Value {
    let status = answer.status.clone().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let network = status.network.clone().unwrap_or_default();
    let others = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips: Vec<String> = std::iter::once(network.ip).chain(others).filter(|ip| !ip.is_empty()).collect();
    json!({
        "kind": "pod",
        "id": status.id,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        "attempt": metadata.attempt,
        "state": pod_state(&status),
        "createdAt": time(status.created_at),
        "handler": handler(&status),
        "ips": ips,
        "labels": sorted(&status.labels),
        "annotations": sorted(&status.annotations),
        "info": info(&answer.info),
        "containers": answer.containers_statuses.iter().map(container).collect::<Vec<_>>(),
    })
}

/// A container.
pub fn container(status: &cri::ContainerStatus) -> Value {
    let metadata = status.metadata.clone().unwrap_or_default();
    let mount = |mount: &cri::Mount| {
        let image = mount.image.as_ref().map(|image| image.image.as_str());
        json!({
            "containerPath": mount.container_path,
            "hostPath": mount.host_path,
            "image": image,
            "readonly": mount.readonly,
        })
    };
    let limits = status.resources.as_ref().and_then(|resources| resources.linux.as_ref()).map(|limits| {
        json!({
            "cpuPeriod": limits.cpu_period,
            "cpuQuota": limits.cpu_quota,
            "cpuShares": limits.cpu_shares,
            "cpusetCpus": limits.cpuset_cpus,
            "memoryLimitInBytes": limits.memory_limit_in_bytes,
        })
    });
    let user = status.user.as_ref().and_then(|user| user.linux.as_ref());
    let user = user.map(
        |user| json!({ "uid": user.uid, "gid": user.gid, "supplementalGroups": user.supplemental_groups }),
    );
    json!({
        "kind": "container",
        "id": status.id,
        "name": metadata.name,
        "attempt": metadata.attempt,
        "state": container_state(status),
        "reason": status.reason,
        "message": status.message,
        "exitCode": status.exit_code,
        "createdAt": time(status.created_at),
        "startedAt": time(status.started_at),
        "finishedAt": time(status.finished_at),
        "image": image(status),
        "imageRef": status.image_ref,
        "imageId": status.image_id,
        "logPath": status.log_path,
        "mounts": status.mounts.iter().map(mount).collect::<Vec<_>>(),
        "limits": limits,
        "user": user,
        "labels": sorted(&status.labels),
        "annotations": sorted(&status.annotations),
    })
}

/// A container by itself: with what says whose it is.
pub fn container_alone(answer: &cri::ContainerStatusResponse) -> Value {
    let mut told = container(&answer.status.clone().unwrap_or_default());
    told["info"] = info(&answer.info);
    told
}

/// What a pod's state is called.
pub fn pod_state(status: &cri::PodSandboxStatus) -> &'static str {
    match status.state() {
        cri::PodSandboxState::SandboxReady => "ready",
        cri::PodSandboxState::SandboxNotready => "not ready",
    }
}

/// What a container's state is called.
pub fn container_state(status: &cri::ContainerStatus) -> &'static str {
    match status.state() {
        cri::ContainerState::ContainerCreated => "created",
        cri::ContainerState::ContainerRunning => "running",
        cri::ContainerState::ContainerExited => "exited",
        cri::ContainerState::ContainerUnknown => "unknown",
    }
}

/// A pod's RuntimeClass handler.
pub fn handler(status: &cri::PodSandboxStatus) -> &str {
    if status.runtime_handler.is_empty() { HANDLER } else { &status.runtime_handler }
}

/// What the image of a container was called by who asked for it.
pub fn image(status: &cri::ContainerStatus) -> &str {
    let Some(image) = &status.image else { return &status.image_ref };
    // kubelet asks for an image by its id, and keeps the name that a person gave beside it.
    if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image }
}

/// Nanoseconds since the Unix epoch, of which 0 means never.
fn time(nanos: i64) -> Value {
    let time = jiff::Timestamp::from_nanosecond(nanos.into()).ok().filter(|_| nanos != 0);
    time.map_or(Value::Null, |time| time.to_string().into())
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<&String, &String> {
    map.iter().collect()
}

/// Numbers, truth values and lists as such: what is as JSON just what it is as text.
fn info(info: &HashMap<String, String>) -> Value {
    let value = |(key, text): (&String, &String)| {
        let typed = serde_json::from_str::<Value>(text).ok();
        // A message is a text whatever it says.
        let same = |value: &Value| serde_json::to_string(value).is_ok_and(|json| json == *text);
        let typed = typed.filter(|value| key != "message" && same(value));
        (key.clone(), typed.unwrap_or_else(|| text.clone().into()))
    };
    Value::Object(info.iter().map(value).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_has_its_type() {
        let told = [
            ("pid", "42"),
            ("cloned", "true"),
            ("machineId", "12345678901234567890123456789012"),
            ("message", "7"),
            ("command", "[\"a\",\"b c\"]"),
            ("cgroup", ""),
        ];
        let told: HashMap<String, String> = told.map(|(key, value)| (key.into(), value.into())).into();
        let expected = json!({
            "pid": 42,
            "cloned": true,
            "machineId": "12345678901234567890123456789012",
            "message": "7",
            "command": ["a", "b c"],
            "cgroup": "",
        });
        assert_eq!(info(&told), expected);
    }

    #[test]
    fn an_empty_answer_is_told_as_well() {
        let told = pod(&cri::PodSandboxStatusResponse {
            containers_statuses: vec![cri::ContainerStatus::default()],
            ..Default::default()
        });
        assert_eq!(
            (&told["state"], &told["createdAt"], &told["handler"]),
            (&json!("ready"), &Value::Null, &json!("husk"))
        );
        assert_eq!(told["containers"][0]["state"], "created");
        assert_eq!(time(1_000_000_001), json!("1970-01-01T00:00:01.000000001Z"));
    }
}
