//! What the daemon knows of a pod or container beyond the CRI's fields: the verbose part of a status.

use std::collections::HashMap;

use crate::cgroup;
use crate::node::Node;
use crate::store::{ContainerRecord, Medium, SandboxRecord};
use crate::vm;

/// Of a pod.
pub fn sandbox(node: &Node, record: &SandboxRecord) -> HashMap<String, String> {
    let dir = node.pod_dir(&record.id);
    let netns = node.network.as_ref().map(|network| network.netns_path(&record.id).display().to_string());
    let pairs = [
        ("pid", record.vmm_pid.to_string()),
        ("vmmUid", record.uid.to_string()),
        ("message", record.message.clone()),
        ("machineId", record.machine_id.clone()),
        ("cloned", record.cloned.to_string()),
        ("vcpus", record.vcpus.to_string()),
        ("maxVcpus", record.max_vcpus.to_string()),
        ("memoryMib", record.memory_mib.to_string()),
        ("maxMemoryMib", record.max_memory_mib.to_string()),
        ("phase", format!("{:?}", record.phase())),
        ("cgroup", cgroup::noted(&dir).map(|path| path.to_string()).unwrap_or_default()),
        ("networkNamespace", netns.unwrap_or_default()),
        ("console", vm::console_log(&dir).display().to_string()),
        ("directory", dir.display().to_string()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Of a container. Its environment is not told: that is where its secrets are.
pub fn container(node: &Node, record: &ContainerRecord) -> HashMap<String, String> {
    let config = record.config.clone().unwrap_or_default();
    let pod = node.pod(&record.sandbox_id).ok().and_then(|pod| pod.record().config?.metadata);
    let pod = pod.unwrap_or_default();
    let media: Vec<String> = record.media.iter().map(Medium::key).collect();
    let pairs = [
        ("sandboxId", record.sandbox_id.clone()),
        ("pod", pod.name),
        ("namespace", pod.namespace),
        ("phase", format!("{:?}", record.phase())),
        ("command", list(&config.command)),
        ("args", list(&config.args)),
        ("slot", record.slot.to_string()),
        ("media", list(&media)),
        ("stopSignal", record.stop_signal.to_string()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn list(words: &[String]) -> String {
    serde_json::json!(words).to_string()
}
