//! The daemon's own limits: open files, processes, memory. What needs more of one is refused and undone; pods go on, and all
//! works again when there is room.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use husk_proto::cri;
use husk_tests::{Bed, Container, Pod, Process, container, expect_code, image, pod, sh, step};
use tonic::{Code, Status};

const LAYERS: &str = "docker.io/husk/layers:latest";
/// What the daemon may take more of memory, KiB, whatever commands print.
const GROWTH_KIB: u64 = 256 << 10;

fn daemon(bed: &Bed) -> Process {
    Process(i32::try_from(bed.daemon.pid()).expect("a process id"))
}

async fn run(bed: &Bed) -> Result<Pod, Status> {
    Pod::try_run(&bed.client, "", bed.with_logs(pod("limited"))).await
}

async fn without_layers(bed: &Bed) {
    let request = cri::RemoveImageRequest { image: Some(image(LAYERS)) };
    bed.client.images().remove_image(request).await.expect("RemoveImage");
}

/// Pods but `kept`: what could not be undone for want of something is there to be removed.
async fn remove_others(bed: &Bed, kept: &Pod) {
    for other in bed.client.pods(cri::PodSandboxFilter::default()).await {
        if other.id != kept.id {
            assert_eq!(other.state(), cri::PodSandboxState::SandboxNotready);
            let request = cri::RemovePodSandboxRequest { pod_sandbox_id: other.id };
            bed.client.runtime().remove_pod_sandbox(request).await.expect("RemovePodSandbox");
        }
    }
}

async fn alive(pod: &Pod, container: &Container, vmm: i32) {
    assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(pod.vmm().await, vmm);
    assert_eq!(container.status().await.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(container.exec("echo alive").await, "alive\n");
}

/// Connections that take all open files; a daemon that comes back to too few of them.
pub async fn open_files(bed: Arc<Bed>) {
    let beside = bed.pod(pod("beside")).await;
    let inside = beside.start(container("inside", "sleep 3600")).await;
    let vmm = beside.vmm().await;
    let pid = bed.daemon.pid();
    let hard = daemon(&bed).limit("Max open files");
    let limit = |soft: u64| sh(&format!("prlimit --pid {pid} --nofile={soft}:{hard}"));

    step("all of them are taken");
    let taken = daemon(&bed).names("fd").len() as u64;
    limit(taken + 16);
    let connect = |_| UnixStream::connect(bed.daemon.socket()).expect("connect to the daemon");
    let connections: Vec<UnixStream> = (0..64).map(connect).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = daemon(&bed).cpu();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = daemon(&bed).cpu().saturating_sub(before);
    assert!(used < Duration::from_millis(600), "the daemon was busy for {used:?} of 3 s");
    expect_code(run(&bed).await.map(|pod| pod.id), &[Code::ResourceExhausted], &["LimitNOFILE"]);
    let refused = inside.try_exec(&["true"], 10).await;
    expect_code(refused, &[Code::ResourceExhausted], &["LimitNOFILE"]);
    assert_eq!(inside.status().await.state(), cri::ContainerState::ContainerRunning);
    let told = bed.daemon.log_tail();
    assert!(told.matches("connections cannot be accepted now").count() == 1, "{told}");

    step("there is room again");
    drop(connections);
    limit(hard);
    remove_others(&bed, &beside).await;
    alive(&beside, &inside, vmm).await;
    run(&bed).await.expect("RunPodSandbox with room").remove().await;

    step("a daemon that comes back to few of them ends no pod");
    let mut refusals = 0;
    for most in (12..72).step_by(6) {
        bed.daemon.kill();
        let mut few = Command::new("sh");
        few.args(["-ec", &format!("ulimit -n {most}; exec \"$@\""), "sh"]);
        refusals += u32::from(!bed.daemon.try_start_under(few).await);
    }
    step(format!("{refusals} were refused"));
    bed.daemon.kill();
    bed.daemon.start().await;
    alive(&beside, &inside, vmm).await;
    inside.stop(0).await;
    assert_eq!(inside.status().await.exit_code, 137);
    beside.remove().await;
    bed.check_clean().expect("nothing is left");
}

/// The daemon in a cgroup where nothing more may be started.
pub async fn processes(bed: Arc<Bed>) {
    let beside = bed.pod(pod("beside")).await;
    let inside = beside.start(container("inside", "sleep 3600")).await;
    let vmm = beside.vmm().await;
    without_layers(&bed).await;
    let root = crate::node::cgroups::root();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", bed.daemon.pid())).expect("read its cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    fs::write(root.join("cgroup.subtree_control"), "+pids").expect("hand the controller down");
    let cgroup = root.join("husk-test-pids");
    fs::create_dir(&cgroup).expect("make a cgroup");
    let admit =
        |to: &PathBuf| fs::write(to.join("cgroup.procs"), bed.daemon.pid().to_string()).expect("move it");
    admit(&cgroup);
    let current = fs::read_to_string(cgroup.join("pids.current")).expect("read its number");
    fs::write(cgroup.join("pids.max"), current).expect("limit its number");

    step("nothing can be started");
    expect_code(run(&bed).await.map(|pod| pod.id), &[Code::ResourceExhausted], &["pids.max"]);
    expect_code(bed.client.pull(LAYERS).await, &[Code::ResourceExhausted], &["pids.max"]);
    alive(&beside, &inside, vmm).await;

    step("there is room again");
    fs::write(cgroup.join("pids.max"), "max").expect("lift the limit");
    remove_others(&bed, &beside).await;
    bed.client.pull(LAYERS).await.expect("PullImage with room");
    run(&bed).await.expect("RunPodSandbox with room").remove().await;
    admit(&root.join(own));
    fs::remove_dir(&cgroup).expect("remove the cgroup");
    alive(&beside, &inside, vmm).await;
    beside.remove().await;
    bed.check_clean().expect("nothing is left");
}

/// Commands that print much more than the daemon shall hold.
pub async fn memory(bed: Arc<Bed>) {
    bed.daemon.kill();
    bed.daemon.start().await;
    let peak =
        || daemon(&bed).status("VmHWM").trim_end_matches(" kB").trim().parse::<u64>().expect("a number");
    let pod = bed.pod(pod("prints")).await;
    let inside = pod.start(container("inside", "sleep 3600")).await;
    let small = peak();
    let line = "head -c 17000000 /dev/zero; head -c 17000000 /dev/zero >&2; sleep 2";
    let exec = async || {
        let request = cri::ExecSyncRequest {
            container_id: inside.id.clone(),
            cmd: ["sh", "-c", line].map(str::to_owned).into(),
            timeout: 350,
        };
        let mut client = bed.client.runtime().max_decoding_message_size(64 << 20);
        client.exec_sync(request).await.map(tonic::Response::into_inner)
    };
    // Three have more than the daemon keeps; two have not.
    let outcomes = join_all((0..3).map(|_| exec())).await;
    let (mut whole, mut refused) = (0, 0);
    for outcome in outcomes {
        match outcome {
            Ok(answer) => {
                assert_eq!(
                    (answer.exit_code, answer.stdout.len(), answer.stderr.len()),
                    (0, 16 << 20, 16 << 20)
                );
                whole += 1;
            }
            Err(status) => {
                expect_code::<()>(Err(status), &[Code::ResourceExhausted], &["MiB"]);
                refused += 1;
            }
        }
    }
    let grown = peak() - small;
    step(format!(
        "{whole} commands' output came whole, {refused} were refused; the daemon grew by {grown} KiB"
    ));
    assert!(whole > 0 && refused > 0 && grown < GROWTH_KIB, "{grown} KiB");
    step("the next command works");
    assert_eq!(inside.exec("echo small").await, "small\n");
    assert!(!inside.exec("ps").await.contains("head -c"), "commands are left");
    pod.remove().await;
}
