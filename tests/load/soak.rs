//! Everything at once, for a long time, and what has grown.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use husk_proto::cri;
use husk_tests::{Bed, Container, step};

use crate::calls::Calls;
use crate::forwards;
use crate::gauge::Gauge;
use crate::life;

/// After so long the workers rest, and what is held is read.
const ROUND: Duration = Duration::from_secs(300);

/// Lives at a time.
const WORKERS: usize = 3;

/// An image that comes and goes.
const IMAGE: &str = "docker.io/husk/layers:latest";

/// For the kernel and the daemon to let go of what has ended.
const SETTLE: Duration = Duration::from_secs(15);

/// Descriptors that may be more at one time than at another.
const SLACK: usize = 4;

/// Threads for work that blocks stay once they are there, and are as many as were ever wanted at once.
const THREADS: usize = 32;

/// Resident memory that may be more at one time than at another, KiB; beyond it, 1 KiB for each life.
const MEMORY_SLACK: f64 = 1024.0;

/// Pods come and go, with commands, logs, connections, images and figures, beside one that stays and counts.
pub async fn run(bed: &Bed, minutes: usize) -> String {
    let calls = Calls::default();
    let (stays, counter) =
        life::begin(bed, &calls, "resident", "i=0; while true; do i=$((i + 1)); echo $i; sleep 0.2; done")
            .await;
    let started = counter.status().await.started_at;
    let end = Instant::now() + Duration::from_secs(60 * minutes as u64);
    let lives = AtomicUsize::new(0);
    let mut rounds = Vec::new();
    while Instant::now() < end {
        let until = (Instant::now() + ROUND).min(end);
        join_all((0..WORKERS).map(|worker| work(bed, &calls, &lives, until, worker))).await;
        tokio::time::sleep(SETTLE).await;
        counted(&counter);
        let gauge = Gauge::read(bed);
        step(format!("{} lives; {}", lives.load(Relaxed), Gauge::head()));
        step(format!("{} lives; {}", lives.load(Relaxed), gauge.row()));
        rounds.push((lives.load(Relaxed), gauge));
    }
    let status = counter.status().await;
    assert_eq!((status.started_at, status.state()), (started, cri::ContainerState::ContainerRunning));
    let lines = counted(&counter);
    life::end(&stays, &calls, "resident").await;
    bed.check_clean().expect("nothing is left");
    let mut text =
        calls.table(&format!("{minutes} minutes, {} lives, {WORKERS} at a time", lives.load(Relaxed)));
    text += &format!(
        "the resident's log: {lines} lines, none missing, none twice\n{:>8}{}\n",
        "lives",
        Gauge::head()
    );
    for (lives, gauge) in &rounds {
        text += &format!("{lives:>8}{}\n", gauge.row());
    }
    // The first round fills caches.
    match (rounds.get(1), rounds.last()) {
        (Some((first, before)), Some((last, after))) if rounds.len() > 2 => {
            match grown(*first, before, *last, after) {
                Ok(grown) => text += &grown,
                Err(leak) => panic!("{leak}\n{text}"),
            }
        }
        _ => text += "too short to say what grows: three rounds of five minutes are the least\n",
    }
    text
}

/// What has grown between two rests.
///
/// # Errors
/// When it is something that only a leak explains.
fn grown(first: usize, before: &Gauge, last: usize, after: &Gauge) -> Result<String, String> {
    let lives = (last - first).max(1);
    let kib = after.rss as f64 - before.rss as f64;
    for (what, before, after, slack) in [
        ("descriptors", before.descriptors, after.descriptors, SLACK),
        ("threads", before.threads, after.threads, THREADS),
        ("processes", before.processes, after.processes, 0),
        ("files", before.files, after.files, 0),
        ("mounts", before.mounts, after.mounts, 0),
        ("links", before.links, after.links, 0),
        ("control groups", before.cgroups, after.cgroups, 0),
    ] {
        if after > before + slack {
            return Err(format!("{what} have grown from {before} to {after} in {lives} lives"));
        }
    }
    if kib > MEMORY_SLACK + lives as f64 {
        return Err(format!("the daemon's memory has grown by {kib} KiB in {lives} lives"));
    }
    Ok(format!(
        "since the second round: {lives} lives; the daemon's memory by {kib} KiB, {:.2} a life; nothing else has grown\n",
        kib / lives as f64
    ))
}

/// The counter's log has every number once, in order.
fn counted(counter: &Container) -> usize {
    let lines = counter.lines();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(
            String::from_utf8_lossy(&line.text),
            (at + 1).to_string(),
            "line {at} of the resident's log"
        );
    }
    lines.len()
}

async fn work(bed: &Bed, calls: &Calls, lives: &AtomicUsize, until: Instant, worker: usize) {
    while Instant::now() < until {
        life::whole(bed, calls, "soak").await;
        let number = lives.fetch_add(1, Relaxed) + 1;
        calls.timed("soak", "ListPodSandboxStats", bed.client.pod_stats()).await;
        if worker == 0 {
            connection(bed, calls, number).await;
            image(bed, calls).await;
        }
        if number.is_multiple_of(10) {
            step(format!("{number} lives"));
        }
    }
}

/// A pod whose port is forwarded, and used.
async fn connection(bed: &Bed, calls: &Calls, number: usize) {
    let (pod, client, port) = forwards::server(bed, calls, "soak", number).await;
    let echo = tokio::task::spawn_blocking(move || drop(forwards::opened(port, number)));
    calls.timed("soak", "forwarded echo", echo).await.expect("the echo's thread");
    drop(client);
    life::end(&pod, calls, "soak").await;
}

/// An image is pulled and removed.
async fn image(bed: &Bed, calls: &Calls) {
    calls.retried("soak", "PullImage", || bed.client.pull(IMAGE)).await;
    let remove = cri::RemoveImageRequest { image: Some(husk_tests::image(IMAGE)) };
    let removed = calls.timed("soak", "RemoveImage", bed.client.images().remove_image(remove)).await;
    removed.expect("RemoveImage");
}
