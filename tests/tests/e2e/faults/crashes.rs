//! The daemon is killed at each of the points between the steps of an operation ([`husk_failpoint`]). What was
//! acknowledged is there afterwards; what was not is undone, or done; and the same can be asked for again.

use std::cell::RefCell;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, Container, Pod, container, pod, step, wait_for};
use tonic::{Code, Status};

/// Of so many points a run under emulation takes one.
const SHARE: usize = 3;

/// Those of the points that this run takes: all of them on real KVM, or where HUSK_ALL_POINTS is set; under emulation, which
/// is slow, one in [`SHARE`], by chance.
fn of_this_run(points: Vec<String>) -> Vec<String> {
    let is_set = |name| std::env::var_os(name).is_some();
    if !is_set("HUSK_TESTBED_EMULATED") || is_set("HUSK_ALL_POINTS") || points.len() < SHARE {
        return points;
    }
    let (number, first) = (points.len(), RandomState::new().hash_one(()) as usize % SHARE);
    let taken: Vec<_> = points.into_iter().skip(first).step_by(SHARE).collect();
    step(format!("{} of {number} points; HUSK_ALL_POINTS=1 takes all", taken.len()));
    taken
}

/// Does `work` once, and then with a kill at each of the points that it has come by and that this run takes: of those whose
/// names have one of `words` in them, or, without any, of all but those of a template, which is made beside it. `settle`
/// checks what came of it, and makes all as it was before.
pub(super) async fn at_each_point(
    bed: &Bed,
    at_least: usize,
    words: &[&str],
    work: impl AsyncFn() -> Result<(), Status>,
    settle: impl AsyncFn(),
) {
    let file = bed.scratch("trace").join("points");
    bed.daemon.kill();
    assert!(bed.daemon.start_with_failpoint(&format!("trace {}", file.display())).await);
    // What the start itself comes by is no part of the work.
    File::create(&file).expect("empty the file");
    work().await.expect("the work, undisturbed");
    let mut points: Vec<String> = Vec::new();
    for point in fs::read_to_string(&file).expect("the points").lines() {
        let wanted = match words {
            [] => !point.contains("template"),
            words => words.iter().any(|word| point.contains(word)),
        };
        if wanted && !points.iter().any(|known| known == point) {
            points.push(point.to_owned());
        }
    }
    settle().await;
    assert!(points.len() >= at_least, "{points:?}");
    for point in of_this_run(points) {
        step(format!("killed when it has just {point}"));
        bed.daemon.kill();
        if bed.daemon.start_with_failpoint(&format!("kill {point}")).await
            && let Err(status) = work().await
        {
            let broken = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
            assert!(broken.contains(&status.code()), "{status:?}");
        }
        bed.daemon.killed().await;
        bed.daemon.start().await;
        settle().await;
    }
}

/// A pod that is being started: it is whole, or nothing of it is left.
pub async fn while_a_pod_starts(bed: Arc<Bed>) {
    let config = bed.with_logs(pod("starting"));
    let work = async || {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        bed.client.runtime().run_pod_sandbox(request).await.map(drop)
    };
    let settle = async || {
        for pod in bed.client.pods(cri::PodSandboxFilter::default()).await {
            assert_eq!(pod.state(), cri::PodSandboxState::SandboxReady);
            let pod = Pod::found(&bed.client, pod.id, config.clone());
            assert_eq!(pod.output("echo whole").await, "whole\n");
        }
        bed.clear().await;
        bed.check_clean().expect("nothing is left");
    };
    at_each_point(&bed, 10, &[], work, settle).await;
}

/// A pod that is being removed: it is gone, or it can be removed.
pub async fn while_a_pod_is_removed(bed: Arc<Bed>) {
    let make = async || {
        let pod = bed.pod(pod("removed")).await;
        pod.start(container("inside", "sleep 3600")).await;
        pod
    };
    let current = RefCell::new(make().await);
    let id = || current.borrow().id.clone();
    let work = async || {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id() };
        bed.client.runtime().remove_pod_sandbox(request).await.map(drop)
    };
    let settle = async || {
        for pod in bed.client.pods(cri::PodSandboxFilter::default()).await {
            assert_eq!(pod.id, id());
            work().await.expect("RemovePodSandbox once more");
        }
        assert!(bed.client.containers(cri::ContainerFilter::default()).await.is_empty());
        bed.check_clean().expect("nothing is left");
        current.replace(make().await);
    };
    at_each_point(&bed, 8, &[], work, settle).await;
}

/// A container beside the one under test, which writes on through every kill.
pub(super) struct Bystander {
    pub(super) container: Container,
    first: cri::ContainerStatus,
}

impl Bystander {
    pub(super) async fn start(pod: &Pod) -> Bystander {
        let line = "n=1; while [ ! -e /tmp/end ]; do echo $n; n=$((n + 1)); sleep 0.05; done; exit 6";
        let container = pod.start(container("bystander", line)).await;
        let first = container.status().await;
        Bystander { container, first }
    }

    pub(super) async fn goes_on(&self) {
        let now = self.container.status().await;
        assert_eq!(now.state(), cri::ContainerState::ContainerRunning);
        assert_eq!((now.created_at, now.started_at), (self.first.created_at, self.first.started_at));
    }

    pub(super) async fn end(self) {
        self.container.let_end().await;
        let status = self.container.wait().await;
        assert_eq!((status.exit_code, status.reason.as_str()), (6, "Error"));
        let text = self.container.text();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
        let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert!(numbers.len() > 50, "only {} lines", numbers.len());
        assert_eq!(numbers, whole, "lines were lost or doubled");
    }
}

/// The containers of a pod but one.
async fn others(bed: &Bed, pod: &Pod, but: &Bystander) -> Vec<cri::Container> {
    let filter = cri::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let mut all = bed.client.containers(filter).await;
    all.retain(|other| other.id != but.container.id);
    all
}

/// A container that is being made, and one that is being started; another in the same pod goes on, and its log is whole.
pub async fn while_a_container_starts(bed: Arc<Bed>) {
    let pod = bed.pod(pod("containers")).await;
    let bystander = Bystander::start(&pod).await;
    let config = container("made", "echo once; sleep 3600");

    step("== while it is made");
    let create = async || pod.try_create(config.clone()).await.map(drop);
    let settle = async || {
        bystander.goes_on().await;
        for made in others(&bed, &pod, &bystander).await {
            assert_eq!(made.state(), cri::ContainerState::ContainerCreated);
            let request = cri::RemoveContainerRequest { container_id: made.id };
            bed.client.runtime().remove_container(request).await.expect("RemoveContainer");
        }
    };
    at_each_point(&bed, 5, &[], create, settle).await;

    step("== while it is started");
    let current = RefCell::new(pod.create(config.clone()).await);
    let container = || current.borrow().clone();
    let start = async || container().start().await;
    let settle = async || {
        bystander.goes_on().await;
        let made = container();
        if made.status().await.state() == cri::ContainerState::ContainerCreated {
            made.start().await.expect("StartContainer once more");
        }
        assert_eq!(made.status().await.state(), cri::ContainerState::ContainerRunning);
        made.wait_log("once\n").await;
        assert_eq!(made.text(), "once\n");
        made.remove().await;
        fs::remove_file(&made.log).expect("remove the log");
        current.replace(pod.create(config.clone()).await);
    };
    at_each_point(&bed, 4, &[], start, settle).await;
    bystander.end().await;
}

/// A container that is being stopped, and one that is being removed; another in the same pod goes on.
pub async fn while_a_container_ends(bed: Arc<Bed>) {
    let pod = bed.pod(pod("containers")).await;
    let bystander = Bystander::start(&pod).await;
    let config = container("ending", "trap 'exit 7' TERM; touch /tmp/ready; while :; do sleep 0.1; done");
    let make = async || {
        let made = pod.start(config.clone()).await;
        wait_for("the trap", Duration::from_secs(60), || async {
            let answer = made.try_exec(&["test", "-e", "/tmp/ready"], 20).await.ok()?;
            (answer.exit_code == 0).then_some(())
        })
        .await;
        made
    };
    let current = RefCell::new(make().await);
    let container = || current.borrow().clone();

    step("== while it is stopped");
    let stop = async || {
        let request = cri::StopContainerRequest { container_id: container().id, timeout: 60 };
        bed.client.runtime().stop_container(request).await.map(drop)
    };
    let settle = async || {
        bystander.goes_on().await;
        stop().await.expect("StopContainer once more");
        let status = container().status().await;
        assert_eq!((status.state(), status.exit_code), (cri::ContainerState::ContainerExited, 7));
        assert!(status.finished_at >= status.started_at, "{status:?}");
        container().remove().await;
        current.replace(make().await);
    };
    at_each_point(&bed, 1, &[], stop, settle).await;

    step("== while it is removed");
    let remove = async || {
        let request = cri::RemoveContainerRequest { container_id: container().id };
        bed.client.runtime().remove_container(request).await.map(drop)
    };
    let settle = async || {
        bystander.goes_on().await;
        remove().await.expect("RemoveContainer once more");
        assert!(others(&bed, &pod, &bystander).await.is_empty());
        current.replace(make().await);
    };
    at_each_point(&bed, 4, &[], remove, settle).await;
    bystander.end().await;
}

/// An image that is being pulled, or removed: it is whole, or it is not there.
pub async fn while_an_image_comes_and_goes(bed: Arc<Bed>) {
    const LAYERS: &str = "docker.io/husk/layers:latest";
    let remove = async || {
        let request = cri::RemoveImageRequest { image: Some(husk_tests::image(LAYERS)) };
        bed.client.images().remove_image(request).await.map(drop)
    };
    let pull = async || bed.client.pull(LAYERS).await.map(drop);
    remove().await.expect("RemoveImage");
    let usage = async || {
        let request = cri::ImageFsInfoRequest {};
        let answer = bed.client.images().image_fs_info(request).await.expect("ImageFsInfo").into_inner();
        answer.image_filesystems[0].used_bytes.expect("bytes").value
    };
    let before = usage().await;
    step("== while it is pulled");
    let settle = async || {
        pull().await.expect("PullImage once more");
        assert!(bed.client.image(LAYERS).await.is_some());
        remove().await.expect("RemoveImage");
        assert_eq!(usage().await, before, "bytes are left behind");
    };
    at_each_point(&bed, 6, &[], pull, settle).await;
    step("== while it is removed");
    pull().await.expect("PullImage");
    let settle = async || {
        remove().await.expect("RemoveImage once more");
        assert!(bed.client.image(LAYERS).await.is_none());
        assert_eq!(usage().await, before, "bytes are left behind");
        pull().await.expect("PullImage");
    };
    at_each_point(&bed, 1, &[], remove, settle).await;
}
