//! The host's own faults: full and damaged disks, a clock that jumps, and callers who go away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, Daemon, Pod, container, expect_code, pod, sh, short_dir, step, wait_for};
use tonic::{Code, Request};

use crate::node::scrape;

/// A daemon of its own, beside the bed's.
pub(super) fn daemon_in(dir: &Path, bed: &Bed) -> Daemon {
    Daemon::prepare(dir, &bed.paths, &bed.cni, &bed.registry.url()).without_templates()
}

/// A small disk of its own at a directory, until this goes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> SmallDisk {
        sh(&format!("mkdir -p {0} && mount -t tmpfs -o size={size} tmpfs {0}", at.display()));
        SmallDisk(at.to_owned())
    }

    /// Takes all its room.
    fn fill(&self) {
        sh(&format!("cat /dev/zero >{}/filler 2>/dev/null || true", self.0.display()));
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("remove the filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        sh(&format!("umount --lazy {}", self.0.display()));
    }
}

/// Records that are damaged are no reason to begin with none: the daemon refuses, names the file and the way out.
pub async fn damaged_store(bed: Arc<Bed>) {
    let dir = short_dir();
    let daemon = daemon_in(dir.path(), &bed);
    daemon.start().await;
    daemon.client().pull(BUSYBOX).await.expect("PullImage");
    daemon.kill();
    for (name, words) in
        [("husk.redb", "move it away"), ("images/index.redb", "move the image store's directory away")]
    {
        step(name);
        let path = daemon.root.join(name);
        let whole = fs::read(&path).expect("read the store");
        let mut damaged = whole.clone();
        damaged[..512].fill(0xa5);
        fs::write(&path, &damaged).expect("damage the store");
        let why = daemon.start_refused().await;
        let why = why.lines().last().unwrap_or_default();
        assert!(why.contains(&path.display().to_string()) && why.contains(words), "{why}");
        assert!(fs::read(&path).expect("read the store") == damaged, "the damaged store was changed");
        fs::write(&path, &whole).expect("mend the store");
    }
    daemon.start().await;
    assert!(daemon.client().image(BUSYBOX).await.is_some());
}

/// A disk without room refuses what needs some, nothing is left of it, and all goes on when there is room again.
pub async fn full_disk(bed: Arc<Bed>) {
    let dir = short_dir();
    let daemon = daemon_in(dir.path(), &bed);
    let disk = SmallDisk::mount(&daemon.root, "64m");
    daemon.start().await;
    let client = daemon.client();
    let run = async || {
        let request = cri::RunPodSandboxRequest { config: Some(pod("full")), ..Default::default() };
        client.runtime().run_pod_sandbox(request).await.map(|answer| answer.into_inner().pod_sandbox_id)
    };

    step("a pull without room");
    disk.fill();
    expect_code(client.pull(BUSYBOX).await, &[Code::ResourceExhausted], &[]);
    disk.free();
    client.pull(BUSYBOX).await.expect("PullImage with room");

    step("a pod without room");
    disk.fill();
    expect_code(run().await, &[Code::ResourceExhausted], &[]);
    assert!(client.pods(cri::PodSandboxFilter::default()).await.is_empty());
    disk.free();
    let id = run().await.expect("RunPodSandbox with room");

    step("a pod's end without room");
    disk.fill();
    let stop = async || {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        client.runtime().stop_pod_sandbox(request).await
    };
    if let Err(status) = stop().await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    disk.free();
    stop().await.expect("StopPodSandbox with room");
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
    client.runtime().remove_pod_sandbox(request).await.expect("RemovePodSandbox");

    step("an accident without room");
    let lost = Pod::found(&client, run().await.expect("RunPodSandbox with room"), pod("full"));
    let vmm = lost.vmm().await;
    disk.fill();
    sh(&format!("kill -KILL {vmm}"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    disk.free();
    wait_for("the end to be told", Duration::from_secs(30), || async {
        (lost.status().await.state() == cri::PodSandboxState::SandboxNotready).then_some(())
    })
    .await;
    daemon.kill();
    daemon.start().await;
    assert_eq!(lost.status().await.state(), cri::PodSandboxState::SandboxNotready);
    lost.remove().await;
    for left in [daemon.run.join("pods"), daemon.run.join("netns"), daemon.root.join("scratch")] {
        assert_eq!(fs::read_dir(&left).map_or(0, Iterator::count), 0, "{} is not empty", left.display());
    }
    daemon.kill();
}

/// A disk for logs without room: the container goes on, what does not fit is lost, and logs of others are whole.
pub async fn full_log_disk(bed: Arc<Bed>) {
    let disk = SmallDisk::mount(&bed.scratch("logs"), "1m");
    let config = cri::PodSandboxConfig { log_directory: disk.0.display().to_string(), ..pod("full-logs") };
    let victim = Pod::run(&bed.client, config).await;
    let writer = victim
        .start(container(
            "writer",
            "for i in $(seq 20000); do echo a line of some fifty letters number $i; done; echo end",
        ))
        .await;
    let status = writer.wait().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(fs::metadata(&writer.log).expect("the log").len() <= 1 << 20);
    step("another pod's log");
    let other = bed.pod(pod("other")).await;
    assert_eq!(other.output("echo whole").await, "whole\n");
    step("room again");
    writer.remove().await;
    fs::remove_file(&writer.log).expect("remove the log");
    assert_eq!(victim.output("echo again").await, "again\n");
    victim.remove().await;
    other.remove().await;
}

/// Who gives up waiting for a pod or a container has nothing left behind.
pub async fn caller_goes_away(bed: Arc<Bed>) {
    bed.daemon.restart_with("", scrape::SERVED).await;
    let given_up = |status: tonic::Status| {
        assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&status.code()), "{status:?}");
    };
    for millis in [50, 300, 800] {
        step(format!("from a pod's start after {millis} ms"));
        let answers = Answers::of(&bed, "RunPodSandbox");
        let config = Some(bed.with_logs(pod("left")));
        let mut request = Request::new(cri::RunPodSandboxRequest { config, ..Default::default() });
        request.set_timeout(Duration::from_millis(millis));
        match bed.client.runtime().run_pod_sandbox(request).await {
            // A fast host.
            Ok(_) => bed.clear().await,
            Err(status) => given_up(status),
        }
        // Its call may have come only just now.
        tokio::time::sleep(Duration::from_secs(1)).await;
        wait_for("the pod to be gone", Duration::from_secs(30), || async {
            let left = bed.client.pods(cri::PodSandboxFilter::default()).await;
            if !left.is_empty() && answers.was_on_its_way() {
                bed.clear().await;
            }
            left.is_empty().then_some(())
        })
        .await;
        bed.check_clean().expect("nothing is left");
    }
    let pod = bed.pod(pod("stays")).await;
    for millis in [5, 40, 120] {
        step(format!("from a container's creation after {millis} ms"));
        let answers = Answers::of(&bed, "CreateContainer");
        let mut request = Request::new(cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(container("left", "true")),
            sandbox_config: Some(pod.config.clone()),
        });
        request.set_timeout(Duration::from_millis(millis));
        let remove = async |container_id: String| {
            let request = cri::RemoveContainerRequest { container_id };
            bed.client.runtime().remove_container(request).await.expect("RemoveContainer");
        };
        match bed.client.runtime().create_container(request).await {
            Ok(answer) => remove(answer.into_inner().container_id).await,
            Err(status) => given_up(status),
        }
        wait_for("the container to be gone", Duration::from_secs(30), || async {
            let left = bed.client.containers(cri::ContainerFilter::default()).await;
            if let Some(container) = left.first()
                && answers.was_on_its_way()
            {
                remove(container.id.clone()).await;
            }
            left.is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(pod.output("echo fine").await, "fine\n");
    pod.remove().await;
    bed.daemon.restart_with("", "").await;
}

/// Calls of a method that a daemon answered before, by its own count.
struct Answers {
    address: String,
    series: String,
    before: f64,
}

impl Answers {
    fn of(bed: &Bed, method: &str) -> Answers {
        let series = scrape::calls(method, "OK");
        let mut answers = Answers { address: scrape::address(&bed.daemon.log()), series, before: 0.0 };
        answers.before = answers.counted();
        answers
    }

    fn counted(&self) -> f64 {
        scrape::scrape(&self.address).1.get(&self.series).copied().unwrap_or_default()
    }

    /// Whether a call was answered that its client gave up at the same moment: what it made stays with every runtime, as
    /// nobody can know.
    fn was_on_its_way(&self) -> bool {
        let is = self.counted() > self.before;
        if is {
            step("the answer was on its way when the client gave up");
        }
        is
    }
}

/// The host's time of day jumps by days: nothing waits for it, and what is told stays in order.
pub async fn clock_jumps(bed: Arc<Bed>) {
    if std::env::var_os("HUSK_TESTBED_EMULATED").is_none() {
        step("skipped: this host's clock is not the test's to set");
        return;
    }
    const DAY: i64 = 86400;
    let jump = |seconds: i64| sh(&format!("date -s @$(($(date +%s) + ({seconds}))) >/dev/null"));
    let pod = bed.pod(pod("clock")).await;
    let before = pod.start(container("before", "while [ ! -e /tmp/end ]; do sleep 0.1; done")).await;
    for seconds in [DAY, -2 * DAY] {
        step(format!("by {seconds} s"));
        jump(seconds);
        assert_eq!(before.exec("echo alive").await, "alive\n");
        let (meanwhile, status) = pod.complete(container("meanwhile", "echo out")).await;
        assert_eq!((status.exit_code, meanwhile.text().as_str()), (0, "out\n"));
        assert!(
            status.created_at <= status.started_at && status.started_at <= status.finished_at,
            "{status:?}"
        );
        assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxReady);
    }
    before.let_end().await;
    let status = before.wait().await;
    assert!(status.started_at <= status.finished_at, "{status:?}");
    step("a daemon that comes back to another day");
    bed.daemon.kill();
    jump(DAY);
    bed.daemon.start().await;
    assert_eq!(pod.output("echo again").await, "again\n");
}
