//! `husk-bench [ROUNDS]`: what husk's operations cost, in one run with a bare VM of QEMU's microvm machine that
//! boots the same kernel, and what volumes cost beside a disk. It runs in the test bed (`make bench`); every figure is
//! the median of the rounds, in which the operations and the bare VMs take turns.
#![forbid(unsafe_code)]

mod bare;
mod resources;
mod samples;
mod volumes;

use std::time::Instant;

use husk_proto::cri;
use husk_tests::{Bed, container, pod, step};
use tokio::runtime::Runtime;

use bare::Bare;
use samples::Samples;

/// What a round measures, in the order in which it does.
const OPERATIONS: [&str; 7] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

const QEMU: &str = "QEMU microvm, bare boot";
const VMM: &str = "husk-vmm, bare boot";

fn main() {
    let rounds = std::env::args().nth(1).map_or(10, |text| match text.parse::<usize>() {
        Ok(rounds) if rounds > 0 => rounds,
        _ => panic!("usage: husk-bench [ROUNDS]; {text:?} is not a number of rounds"),
    });
    let runtime = Runtime::new().expect("start the async runtime");
    runtime.block_on(bench(rounds));
}

async fn bench(rounds: usize) {
    let bed = Bed::start(Some(&["busybox"])).await;
    let bare = Bare::prepare(&bed);
    let mut samples = Samples::default();
    // The first round warms caches and is not counted.
    for round in 0..=rounds {
        step(format!("round {round} of {rounds}"));
        let mut measured = vec![(QEMU, bare.qemu()), (VMM, bare.vmm())];
        measured.extend(OPERATIONS.into_iter().zip(life(&bed).await));
        if round > 0 {
            measured.into_iter().for_each(|(name, took)| samples.add(name, took));
        }
        bed.check_clean().expect("nothing is left");
    }
    println!("\n{}", samples.table(|_| QEMU));
    println!("{}", volumes::report(&bed, rounds).await);
    println!("{}", resources::report(&bed).await);
}

/// One pod's life; milliseconds of each of [`OPERATIONS`].
async fn life(bed: &Bed) -> [f64; OPERATIONS.len()] {
    let config = bed.with_logs(pod("bench"));
    let mut clock = Clock(Instant::now());
    let pod = husk_tests::Pod::run(&bed.client, config).await;
    let run = clock.lap();
    let container = pod.create(container("bench", "sleep 3600")).await;
    let create = clock.lap();
    container.start().await.expect("StartContainer");
    let start = clock.lap();
    let answer = container.try_exec(&["true"], 10).await.expect("ExecSync");
    let exec = clock.lap();
    assert_eq!(answer.exit_code, 0);
    container.stop(0).await;
    let stop_container = clock.lap();
    assert_eq!(container.status().await.state(), cri::ContainerState::ContainerExited);
    clock.lap();
    pod.stop().await;
    let stop = clock.lap();
    pod.remove().await;
    [run, create, start, exec, stop_container, stop, clock.lap()]
}

struct Clock(Instant);

impl Clock {
    /// Milliseconds since the last lap.
    fn lap(&mut self) -> f64 {
        let lap = self.0.elapsed().as_secs_f64() * 1000.0;
        self.0 = Instant::now();
        lap
    }
}
