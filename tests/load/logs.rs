//! Containers that write as fast as they can.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use husk_tests::{Bed, Client, Container, Pod, step};

use crate::calls::Calls;
use crate::gauge::Gauge;
use crate::life;

/// The pods that write at the same time.
const PODS: usize = 4;

/// Where containerd puts pods that name no cgroup.
const PEERS_CGROUP: &str = "/sys/fs/cgroup/k8s.io";

/// How long a writer may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Lines that are written again and again: making each would take longer than writing it.
const BLOCK: usize = 2000;

/// A line, without its end.
const LINE: &str =
    "the quick brown fox jumps over the lazy dog, and the lazy dog does not mind it at all, or so it says";

/// Writes to nowhere, which is what containers can do there, and then to logs, all of which must be whole; under husk and
/// under containerd with runc, whose containers are no guests' and so run faster where a guest is emulated.
pub async fn run(bed: &Bed, mib: usize) -> String {
    let calls = Calls::default();
    let before = Gauge::read(bed);
    let ours = rates(bed, &bed.client, &calls, mib).await;
    let after = Gauge::read(bed);
    let containerd = bed.containerd().await;
    let peers = rates(bed, &containerd.client(), &calls, mib).await;
    drop(containerd);
    // It stays behind its pods, empty.
    fs::remove_dir(PEERS_CGROUP).unwrap_or_else(|e| panic!("{PEERS_CGROUP}: {e}"));
    format!(
        "{mib} MiB of logs, of {PODS} pods at once, every line there\n\
         {:<18}{:>16}{:>16}{:>8}\n{}{}\
         the ratios' ratio: {:.2}; the daemon's memory: {} KiB before, {} KiB after\n",
        "",
        "nowhere, MiB/s",
        "logs, MiB/s",
        "ratio",
        ours.row("husk"),
        peers.row("containerd, runc"),
        ours.ratio() / peers.ratio(),
        before.rss,
        after.rss,
    )
}

/// How fast, MiB/s, containers write.
struct Rates {
    nowhere: f64,
    logs: f64,
}

impl Rates {
    fn ratio(&self) -> f64 {
        self.logs / self.nowhere
    }

    fn row(&self, name: &str) -> String {
        format!("{name:<18}{:>16.1}{:>16.1}{:>8.2}\n", self.nowhere, self.logs, self.ratio())
    }
}

async fn rates(bed: &Bed, client: &Client, calls: &Calls, mib: usize) -> Rates {
    let times = (mib << 20).div_ceil(PODS * BLOCK * (LINE.len() + 1));
    let lines = times * BLOCK;
    let write = |target: &str| {
        format!(
            "yes '{LINE}' | head -n {BLOCK} >/tmp/block; for i in $(seq {times}); do cat /tmp/block; done{target}"
        )
    };
    let mut pods: Vec<Pod> = Vec::new();
    for _ in 0..PODS {
        pods.push(life::alone(bed, client, calls, "start").await);
    }
    step("to nowhere");
    let (nowhere, _) = written(&pods, calls, &write(" | cat >/dev/null")).await;
    step("to logs");
    let (logs, containers) = written(&pods, calls, &write("")).await;
    step("the logs are read");
    let wanted = format!("stdout F {LINE}");
    for container in &containers {
        // Times are written in another way by other runtimes.
        let text = fs::read_to_string(&container.log).expect("read the log");
        let whole = text.lines().filter(|line| line.split_once(' ').is_some_and(|(_, rest)| rest == wanted));
        assert_eq!(
            (whole.count(), text.lines().count()),
            (lines, lines),
            "lines in {}",
            container.log.display()
        );
    }
    for pod in &pods {
        life::end(pod, calls, "end").await;
    }
    let rate = |took: f64| (lines * PODS * (LINE.len() + 1)) as f64 / took / f64::from(1 << 20);
    Rates { nowhere: rate(nowhere), logs: rate(logs) }
}

/// How long it takes, seconds, until a line of shell has ended in all pods.
async fn written(pods: &[Pod], calls: &Calls, line: &str) -> (f64, Vec<Container>) {
    let begun = Instant::now();
    let each = pods.iter().map(|pod| async move {
        let container = life::add(pod, calls, "write", line).await;
        let status = container.wait_within(LIMIT).await;
        assert_eq!(status.exit_code, 0, "{}", status.message);
        container
    });
    let containers = join_all(each).await;
    (begun.elapsed().as_secs_f64(), containers)
}
