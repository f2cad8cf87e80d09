//! A disk that takes nothing more: after an error ext4 is read-only until it is mounted anew.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{
    BUSYBOX, Bed, Client, Container, Pod, container, expect_code, pod, sh, short_dir, step, wait_for,
};
use tonic::{Code, Status};

use super::host::daemon_in;

/// A file system of its own at a directory, until this goes.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(image: PathBuf, at: &Path) -> Disk {
        File::create(&image).and_then(|file| file.set_len(1 << 30)).expect("make the image");
        sh(&format!("mkdir -p {} && mkfs.ext4 -q -F {}", at.display(), image.display()));
        let disk = Disk { image, at: at.to_owned() };
        disk.mount();
        disk
    }

    fn mount(&self) {
        sh(&format!("mount -o loop,errors=remount-ro {} {}", self.image.display(), self.at.display()));
    }

    /// As after an error that the kernel has met.
    fn fail(&self) {
        sh(&format!("mount -o remount,abort {} || true", self.at.display()));
        let probe = self.at.join("probe");
        assert!(File::create(&probe).is_err(), "{} can be made", probe.display());
    }

    /// Mounts it anew. The failed one has to be unmounted for that, and nobody may use it any more.
    async fn mend(&self) {
        let unmount = format!("umount {} && echo done || true", self.at.display());
        wait_for("nobody to use the disk", Duration::from_secs(20), || async {
            sh(&unmount).contains("done").then_some(())
        })
        .await;
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("umount --lazy {} || true", self.at.display()));
    }
}

async fn run(client: &Client, config: cri::PodSandboxConfig) -> Result<Pod, Status> {
    Pod::try_run(client, "", config).await
}

async fn goes_on(pod: &Pod, container: &Container) {
    assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(container.exec("echo alive").await, "alive\n");
}

/// The daemon's own disk: what needs it is refused with the way out, and pods go on; a daemon that finds it so does not start,
/// and ends none of them; all works when the disk does.
pub async fn store(bed: Arc<Bed>) {
    let dir = short_dir();
    let daemon = daemon_in(dir.path(), &bed);
    let disk = Disk::make(dir.path().join("disk"), &daemon.root);
    daemon.start().await;
    let client = daemon.client();
    client.pull(BUSYBOX).await.expect("PullImage");
    let kept = run(&client, bed.with_logs(pod("kept"))).await.expect("RunPodSandbox");
    let inside = kept.start(container("inside", "sleep 3600")).await;
    let ending =
        kept.start(container("ending", "while [ ! -e /dev/shm/end ]; do sleep 0.1; done; exit 6")).await;
    let vmm = kept.vmm().await;

    step("the disk fails");
    disk.fail();
    expect_code(run(&client, pod("refused")).await.map(|pod| pod.id), &[Code::Unavailable], &["read-only"]);
    expect_code(client.pull("docker.io/husk/layers:latest").await, &[Code::Unavailable], &["read-only"]);
    assert_eq!(client.pods(cri::PodSandboxFilter::default()).await.len(), 1);
    goes_on(&kept, &inside).await;
    // Its end may kill the command.
    ending.try_exec(&["touch", "/dev/shm/end"], 10).await.expect("ExecSync");
    wait_for("the end to be seen", Duration::from_secs(20), || async {
        daemon.log_tail().contains("an end cannot be recorded yet").then_some(())
    })
    .await;

    step("a daemon that finds it so");
    daemon.kill();
    let why = daemon.start_refused().await;
    let why = why.lines().last().unwrap_or_default();
    assert!(why.contains(&daemon.root.display().to_string()) && why.contains("writable"), "{why}");
    assert!(Path::new(&format!("/proc/{vmm}")).exists(), "the pod was ended");

    step("it is mended, for which the pod had to end");
    sh(&format!("kill -KILL {vmm}"));
    disk.mend().await;
    daemon.start().await;
    assert_eq!(kept.status().await.state(), cri::PodSandboxState::SandboxNotready);
    assert_eq!(ending.status().await.state(), cri::ContainerState::ContainerExited);
    let next = run(&client, bed.with_logs(pod("next"))).await.expect("RunPodSandbox");
    assert_eq!(next.output("echo next").await, "next\n");
    for pod in [kept, next] {
        pod.remove().await;
    }
    daemon.kill();
}
