//! Records of thousands of containers that have ended.

use std::time::Instant;

use husk_images::Database;
use husk_proto::cri;
use husk_tests::{Bed, Client, step};
use redb::TableDefinition;

use crate::calls::Calls;
use crate::gauge::Gauge;
use crate::life;

/// Containers of each pod.
const OF_A_POD: usize = 50;

/// How often each call is measured.
const ROUNDS: usize = 40;

/// The store's tables, as the daemon names them.
const SANDBOXES: TableDefinition<&str, &[u8]> = TableDefinition::new("sandboxes");
const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");
/// The format of the daemon's records, which it refuses to open when they are of a newer one.
const FORMAT: u64 = 1;

/// Copies what is recorded of a pod and a container that have ended, under other names, until there are so many; looks at
/// them as kubelet does, and removes them.
pub async fn run(bed: &Bed, containers: usize) -> String {
    let calls = Calls::default();
    let (pod, ended) = life::begin(bed, &calls, "first", "true").await;
    ended.wait().await;
    pod.stop().await;
    let (running, live) = life::begin(bed, &calls, "first", "sleep 36000").await;
    look(&bed.client, &calls, "2 containers", &live.id, 2).await;
    let before = Gauge::read(bed);

    step("the records are written");
    let pods = containers.div_ceil(OF_A_POD);
    bed.daemon.kill();
    let wanted = Names {
        pod: pod.id.clone(),
        pod_name: pod.config.metadata.as_ref().expect("a pod has a name").name.clone(),
        container: ended.id.clone(),
        container_name: ended
            .log
            .parent()
            .and_then(|dir| dir.file_name())
            .expect("its log's directory")
            .to_string_lossy()
            .into_owned(),
    };
    wanted.copy(&bed.daemon.root.join("husk.redb"), pods).expect("write the records");

    step("the daemon comes back");
    let begun = Instant::now();
    bed.daemon.start().await;
    let back = begun.elapsed();
    let total = pods * OF_A_POD;
    look(&bed.client, &calls, "all", &live.id, total + 2).await;
    life::exec(&live, &calls, "all").await;
    let full = Gauge::read(bed);

    step("the pods are removed");
    let mut runtime = bed.client.runtime();
    for (number, listed) in bed.client.pods(Default::default()).await.into_iter().enumerate() {
        if listed.id != running.id {
            let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: listed.id };
            let removed = calls.timed("all", "RemovePodSandbox", runtime.remove_pod_sandbox(remove)).await;
            removed.expect("RemovePodSandbox");
        }
        if number % 50 == 49 {
            step(format!("{} are removed", number + 1));
        }
    }
    assert_eq!(bed.client.containers(Default::default()).await.len(), 1);
    life::exec(&live, &calls, "2 containers").await;
    life::end(&running, &calls, "first").await;
    calls.table(&format!("{total} ended containers in {pods} pods"))
        + &format!(
            "the daemon answers {:.2} s after its start; its memory: {} KiB before, {} KiB with them\n",
            back.as_secs_f64(),
            before.rss,
            full.rss
        )
}

/// Lists all, one pod's, one container, and asks for one's status.
async fn look(client: &Client, calls: &Calls, phase: &'static str, id: &str, all: usize) {
    for _ in 0..ROUNDS {
        let listed = calls.timed(phase, "ListContainers", client.containers(Default::default())).await;
        assert_eq!(listed.len(), all);
        let one = cri::ContainerFilter { id: id.to_owned(), ..Default::default() };
        let listed = calls.timed(phase, "ListContainers of an id", client.containers(one)).await;
        assert_eq!(listed.len(), 1);
        let runs = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
        let running = cri::ContainerFilter { state: Some(runs), ..Default::default() };
        let listed = calls.timed(phase, "ListContainers that run", client.containers(running)).await;
        assert_eq!(listed.len(), 1);
        calls.timed(phase, "ListPodSandbox", client.pods(Default::default())).await;
        let mut runtime = client.runtime();
        let status = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        calls
            .timed(phase, "ContainerStatus", runtime.container_status(status))
            .await
            .expect("ContainerStatus");
    }
}

/// What the copied records have of their own.
struct Names {
    pod: String,
    pod_name: String,
    container: String,
    container_name: String,
}

impl Names {
    /// Writes `pods` copies of the pod, each with [`OF_A_POD`] of the container.
    fn copy(&self, store: &std::path::Path, pods: usize) -> Result<(), redb::Error> {
        let store = Database::open(store, FORMAT).expect("open the records");
        let (pod, container) = store.look(|read| {
            let row = |table: TableDefinition<&str, &[u8]>, key: &str| {
                let row = read.open_table(table)?.get(key)?.map(|row| row.value().to_vec());
                Ok::<_, redb::Error>(row.unwrap_or_else(|| panic!("no record of {key}")))
            };
            Ok((row(SANDBOXES, &self.pod)?, row(CONTAINERS, &self.container)?))
        })?;
        store.change(|write| {
            let (mut sandboxes, mut containers) =
                (write.open_table(SANDBOXES)?, write.open_table(CONTAINERS)?);
            for number in 0..pods {
                let (id, name) = (numbered(&self.pod, number), numbered(&self.pod_name, number));
                let of_pod = |record: &[u8]| renamed(&renamed(record, &self.pod, &id), &self.pod_name, &name);
                sandboxes.insert(&*id, &*of_pod(&pod))?;
                for which in 0..OF_A_POD {
                    let number = number * OF_A_POD + which;
                    let (id, name) =
                        (numbered(&self.container, number), numbered(&self.container_name, number));
                    let record = renamed(&of_pod(&container), &self.container, &id);
                    containers.insert(&*id, &*renamed(&record, &self.container_name, &name))?;
                }
            }
            Ok(())
        })
    }
}

/// A name of the same length that ends in a number: a record's fields have lengths.
fn numbered(name: &str, number: usize) -> String {
    let number = format!("{number:05x}");
    let kept = name.len().checked_sub(number.len()).expect("the name has room for a number");
    format!("{}{number}", &name[..kept])
}

fn renamed(record: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    assert_eq!(from.len(), to.len());
    let mut record = record.to_vec();
    let mut at = 0;
    while let Some(found) = record[at..].windows(from.len()).position(|part| part == from) {
        record[at + found..at + found + from.len()].copy_from_slice(to);
        at += found + from.len();
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_length() {
        assert_eq!(numbered("load-history", 10), "load-hi0000a");
        assert_eq!(renamed(b"\x03abc..abcab", "abc", "xyz"), b"\x03xyz..xyzab");
    }
}
