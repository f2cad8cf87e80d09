//! Containers that write as fast as they can.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use husk_tests::{Bed, Container, Pod, step};

use crate::calls::Calls;
use crate::gauge::Gauge;
use crate::life;

/// The pods that write at the same time.
const PODS: usize = 4;

/// How long a writer may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Lines that are written again and again: making each would take longer than writing it.
const BLOCK: usize = 2000;

/// A line, without its end.
const LINE: &str =
    "the quick brown fox jumps over the lazy dog, and the lazy dog does not mind it at all, or so it says";

/// Writes to nowhere, which is what the guests can do, and then to logs, all of which must be whole.
pub async fn run(bed: &Bed, mib: usize) -> String {
    let calls = Calls::default();
    let times = (mib << 20).div_ceil(PODS * BLOCK * (LINE.len() + 1));
    let lines = times * BLOCK;
    let write = |target: &str| {
        format!(
            "yes '{LINE}' | head -n {BLOCK} >/tmp/block; for i in $(seq {times}); do cat /tmp/block; done{target}"
        )
    };
    let mut pods: Vec<Pod> = Vec::new();
    for _ in 0..PODS {
        pods.push(life::begin(bed, &calls, "start", "sleep 36000").await.0);
    }
    let before = Gauge::read(bed);
    step("to nowhere");
    let (floor, _) = written(&pods, &calls, &write(" | cat >/dev/null")).await;
    step("to logs");
    let (took, containers) = written(&pods, &calls, &write("")).await;
    let after = Gauge::read(bed);
    step("the logs are read");
    for container in &containers {
        let logged = container.lines();
        assert_eq!(logged.len(), lines, "lines in {}", container.log.display());
        assert!(logged.iter().all(|line| line.text == LINE.as_bytes() && !line.partial));
    }
    for pod in &pods {
        life::end(pod, &calls, "end").await;
    }
    let rate = |took: f64| (lines * PODS * (LINE.len() + 1)) as f64 / took / f64::from(1 << 20);
    format!(
        "{mib} MiB of logs, of {PODS} pods at once, every line there\n\
         to logs      {:>8.1} MiB/s\n\
         to nowhere   {:>8.1} MiB/s, what the guests can do; ratio {:.2}\n\
         the daemon's memory: {} KiB before, {} KiB after\n",
        rate(took),
        rate(floor),
        floor / took,
        before.rss,
        after.rss,
    )
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
