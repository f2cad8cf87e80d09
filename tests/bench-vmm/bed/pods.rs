//! Pods through the CRI: husk's, whose VMs are clones, and containerd's with runc, on one host and network.

use std::fs;
use std::time::{Duration, Instant};

use husk_proto::cri;
use husk_tests::{Bed, Client, Pod, Process, container, pod, step};

use crate::figures::Figures;

/// What a pod may use, bytes.
const MEMORY: i64 = 128 << 20;
/// How many of them idle beside each other.
const CLONES: usize = 20;
/// How long a template may take to be made.
const MAKING: Duration = Duration::from_secs(120);
/// What is left to be done after a pod's end is done by then.
const REST: Duration = Duration::from_millis(500);
/// A guest's own settling.
const SETTLE: Duration = Duration::from_secs(3);

/// The cgroup of one runtime: what it starts is in it too, but for containers, which runc puts elsewhere.
struct Account(String);

impl Account {
    /// Puts a daemon into it.
    fn open(name: &str, daemon: u32) -> Account {
        let account = Account(format!("/sys/fs/cgroup/husk-bench/{name}"));
        let place = format!("{}/daemon", account.0);
        fs::create_dir_all(&place)
            .and_then(|()| fs::write(format!("{place}/cgroup.procs"), daemon.to_string()))
            .unwrap_or_else(|e| panic!("{place}: {e}; cgroup v2 is needed"));
        account
    }

    /// CPU time of all that is and was in it.
    fn cpu(&self) -> Duration {
        let text = fs::read_to_string(format!("{}/cpu.stat", self.0)).expect("read cpu.stat");
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        Duration::from_micros(usage.expect("cpu.stat tells the usage"))
    }
}

/// What one pod's life took.
struct Life {
    run: Duration,
    cpu: Duration,
}

/// The runtimes take turns; then clones idle.
pub async fn measure(bed: &Bed, rounds: usize, figures: &mut Figures) {
    let husk = Account::open("husk", bed.daemon.pid());
    let containerd = bed.containerd().await;
    let runc = Account::open("containerd", containerd.pid());
    let client = containerd.client();
    template(bed).await;
    // The first round warms caches and is not counted.
    for round in 0..=rounds {
        let ours = life(bed, &bed.client, &husk, true).await;
        let theirs = life(bed, &client, &runc, false).await;
        let [run, run_peer, cpu, cpu_peer] = [ours.run, theirs.run, ours.cpu, theirs.cpu].map(milliseconds);
        step(format!(
            "pods, round {round} of {rounds}: RunPodSandbox {run:.0} ms and containerd's {run_peer:.0} ms, \
             CPU of a life {cpu:.0} ms and containerd's {cpu_peer:.0} ms"
        ));
        if round > 0 {
            figures.ours("run", run);
            figures.peers("run", run_peer);
            figures.ours("life-cpu", cpu);
            figures.peers("life-cpu", cpu_peer);
        }
    }
    drop(containerd);
    figures.ours("clone-memory", crowd(bed).await);
}

/// Runs pods until one is a clone.
async fn template(bed: &Bed) {
    let begun = Instant::now();
    loop {
        step("a pod that boots, of which a template is made");
        let pod = Pod::run(&bed.client, config(bed, "first")).await;
        let cloned = pod.is_clone().await;
        pod.stop().await;
        pod.remove().await;
        if cloned {
            return;
        }
        assert!(begun.elapsed() < MAKING, "no template is made: {}", bed.daemon.log_tail());
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

/// A pod, whose VMM is in husk's account.
fn config(bed: &Bed, prefix: &str) -> cri::PodSandboxConfig {
    let mut config = bed.with_logs(pod(prefix));
    let linux = config.linux.get_or_insert_default();
    linux.cgroup_parent = "/husk-bench/husk/pods".into();
    linux.resources =
        Some(cri::LinuxContainerResources { memory_limit_in_bytes: MEMORY, ..Default::default() });
    config
}

/// From RunPodSandbox to RemovePodSandbox, with one container and a command in it.
async fn life(bed: &Bed, client: &Client, account: &Account, guest: bool) -> Life {
    let mut config = config(bed, "life");
    if !guest {
        // Its containers are not part of what is measured, as husk's guests are not.
        config.linux.get_or_insert_default().cgroup_parent.clear();
    }
    let before = account.cpu();
    let begun = Instant::now();
    let pod = Pod::run(client, config).await;
    let run = begun.elapsed();
    let container = pod.start(container("life", "sleep 3600")).await;
    let answer = container.try_exec(&["true"], 60).await.expect("ExecSync");
    assert_eq!(answer.exit_code, 0);
    container.stop(0).await;
    let guests = if guest {
        assert!(pod.is_clone().await, "{}", bed.daemon.log_tail());
        Process(pod.vmm().await).guest_cpu()
    } else {
        Duration::ZERO
    };
    pod.stop().await;
    pod.remove().await;
    tokio::time::sleep(REST).await;
    Life { run, cpu: (account.cpu() - before).saturating_sub(guests) }
}

/// MiB of the last of many idle clones, as its share of what they share.
async fn crowd(bed: &Bed) -> f64 {
    let mut pods = Vec::new();
    for number in 1..=CLONES {
        step(format!("clone {number} of {CLONES}"));
        let pod = Pod::run(&bed.client, config(bed, "idle")).await;
        assert!(pod.is_clone().await, "{}", bed.daemon.log_tail());
        pods.push(pod);
    }
    tokio::time::sleep(SETTLE).await;
    let last = Process(pods[CLONES - 1].vmm().await);
    let memory = last.memory();
    let (own, guest) = last.monitor_memory();
    step(format!(
        "the last clone: {} KiB PSS, {} KiB RSS; of it the VMM {} and {}, the guest {} and {}",
        memory.pss, memory.rss, own.pss, own.rss, guest.pss, guest.rss
    ));
    memory.pss as f64 / 1024.0
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
