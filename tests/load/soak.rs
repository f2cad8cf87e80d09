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
    match rounds.get(1..) {
        Some(rest) if rest.len() > 1 => match grown(rest) {
            Ok(grown) => text += &grown,
            Err(leak) => panic!("{leak}\n{text}"),
        },
        _ => text += "too short to say what grows: three rounds of five minutes are the least\n",
    }
    text
}

/// Reads one number.
type Count = fn(&Gauge) -> usize;

/// What has grown over several rests: of lives that were over, and what there was. What the resident writes down just
/// then comes and goes; a leak shows when the last two have more than any of the first half.
///
/// # Errors
/// When it is something that only a leak explains.
fn grown(rests: &[(usize, Gauge)]) -> Result<String, String> {
    let ((first, before), (last, after)) = match rests {
        [first, .., last] => (first, last),
        _ => return Err(format!("{} rests tell nothing", rests.len())),
    };
    let lives = (last - first).max(1);
    let early = &rests[..rests.len() / 2];
    let late = &rests[rests.len().saturating_sub(2).max(early.len())..];
    let counts: [(&str, Count, usize); 7] = [
        ("descriptors", |gauge| gauge.descriptors, SLACK),
        ("threads", |gauge| gauge.threads, THREADS),
        ("processes", |gauge| gauge.processes, 0),
        ("files", |gauge| gauge.files, 0),
        ("mounts", |gauge| gauge.mounts, 0),
        ("links", |gauge| gauge.links, 0),
        ("control groups", |gauge| gauge.cgroups, 0),
    ];
    for (what, count, slack) in counts {
        let most = early.iter().map(|(_, gauge)| count(gauge)).max().unwrap_or(0);
        let least = late.iter().map(|(_, gauge)| count(gauge)).min().unwrap_or(0);
        if least > most + slack {
            return Err(format!("{what} have grown from {most} to {least} in {lives} lives"));
        }
    }
    let kib = after.rss as f64 - before.rss as f64;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rests(files: &[usize]) -> Vec<(usize, Gauge)> {
        let gauge = |files| Gauge {
            descriptors: 23,
            threads: 8,
            rss: 24_000,
            processes: 3,
            files,
            mounts: 38,
            links: 3,
            cgroups: 3,
            available: 5000,
            slab: 20,
        };
        files.iter().enumerate().map(|(round, files)| (round * 20, gauge(*files))).collect()
    }

    #[test]
    fn a_leak_is_told_from_what_comes_and_goes() {
        assert!(grown(&rests(&[19, 21, 21, 19, 21, 21])).is_ok());
        assert!(grown(&rests(&[19, 19, 19, 21, 21, 19])).is_ok());
        let leak = grown(&rests(&[19, 20, 21, 22, 23, 24])).unwrap_err();
        assert!(leak.contains("files have grown from 21 to 23 in 100 lives"), "{leak}");
        assert!(grown(&rests(&[19, 19, 19, 19, 21, 21])).is_err());
        assert!(grown(&rests(&[19, 21])).is_err());
        assert!(grown(&rests(&[19])).is_err());
    }
}
