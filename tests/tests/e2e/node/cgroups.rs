//! Where a pod's processes are on the host, and that nothing of it stays.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{
    Bed, Client, Daemon, Pod, Process, container, expect_code, pod, sh, short_dir, step, wait_for,
};
use tonic::Code;

/// What a pod's processes may take beside the guest's memory, bytes: runtime/dist/runtimeclass.yaml counts with it.
const OVERHEAD: u64 = 32 << 20;

/// Where version 2 is mounted, alone or beside version 1.
pub fn root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let mut found = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = found.find(|fields| fields.get(2) == Some(&"cgroup2")).expect("the test bed has cgroup2");
    mount[1].into()
}

/// A parent, as kubelet makes it; removed with this value.
struct Parent(PathBuf);

impl Parent {
    fn make(path: &str) -> Parent {
        let dir = root().join(path.trim_start_matches('/'));
        let mut above = root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            fs::write(above.join("cgroup.subtree_control"), "+memory").expect("hand the controller down");
            above.push(name);
            fs::create_dir_all(&above).expect("make the parent");
        }
        Parent(dir)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let root = root();
        for dir in self.0.ancestors().take_while(|dir| **dir != *root) {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn below(parent: &str) -> cri::PodSandboxConfig {
    let mut config = pod("cgroup");
    config.linux.get_or_insert_default().cgroup_parent = parent.into();
    config
}

/// The line of /proc/PID/cgroup of version 2, or of version 1 by its name.
fn cgroup_of(pid: &str, hierarchy: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("read the process's cgroups");
    let mut lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let found = lines.find(|(name, _)| *name == hierarchy).map(|(_, path)| path.to_owned());
    found.unwrap_or_else(|| panic!("no hierarchy {hierarchy:?} in {text}"))
}

/// A container with a volume, so that something serves the volume.
async fn with_volume(bed: &Bed, pod: &Pod) {
    let host = bed.scratch("volume").display().to_string();
    let mount = cri::Mount { host_path: host, container_path: "/data".into(), ..Default::default() };
    pod.start(cri::ContainerConfig { mounts: vec![mount], ..container("volume", "sleep 3600") }).await;
}

/// The VMM and all processes of the volumes' server.
async fn processes(pod: &Pod) -> Vec<String> {
    let servers = sh(&format!("pgrep -f -- '--shared-dir [^ ]*{}'", pod.id));
    let mut all: Vec<String> = servers.lines().map(str::to_owned).collect();
    assert!(!all.is_empty(), "nothing serves the volume");
    all.push(pod.vmm().await.to_string());
    all
}

/// Both forms of a parent: VMM and volumes' server are below it; it stays when they go.
pub async fn where_kubelet_says(bed: Arc<Bed>) {
    let slices = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podb_2.slice";
    for (asked, parent) in [
        ("/kubepods/burstable/poda-1", "/kubepods/burstable/poda-1"),
        ("kubepods-burstable-podb_2.slice", slices),
        // Expanded, as kubelet itself sends it.
        (slices, slices),
    ] {
        step(asked);
        let made = Parent::make(parent);
        let pod = bed.pod(below(asked)).await;
        with_volume(&bed, &pod).await;
        let own = format!("{parent}/husk-{}", pod.id);
        for pid in processes(&pod).await {
            assert_eq!(cgroup_of(&pid, ""), own);
        }
        assert_eq!(pod.describe().await.info["cgroup"], own);
        step("what it uses");
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let answer = bed.client.runtime().pod_sandbox_stats(request).await.expect("PodSandboxStats");
        let linux = answer.into_inner().stats.and_then(|stats| stats.linux).expect("figures");
        let (cpu, memory) = (linux.cpu.expect("CPU"), linux.memory.expect("memory"));
        let value = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
        let told =
            (value(cpu.usage_core_nano_seconds), value(memory.usage_bytes), value(memory.working_set_bytes));
        assert!(told.0 > 100_000_000 && told.1 > 4 << 20 && (1..=told.1).contains(&told.2), "{told:?}");
        let own_dir = made.0.join(format!("husk-{}", pod.id));
        let now = fs::read_to_string(own_dir.join("memory.current")).expect("read memory.current");
        let now: u64 = now.trim().parse().expect("bytes");
        assert!(told.1.abs_diff(now) < 64 << 20, "{} was told, the cgroup has {now}", told.1);

        let stat = fs::read_to_string(own_dir.join("memory.stat")).expect("read memory.stat");
        let field = |name: &str| -> u64 {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {stat}")).parse().expect("bytes")
        };
        // A guest that was booted has all of its memory there, one from a template what it has written.
        let of_cgroup = field("anon") + field("kernel");
        let (_, guest) = Process(pod.vmm().await).monitor_memory();
        let beside = of_cgroup.saturating_sub(guest.anonymous << 10);
        step(format!("{} KiB beside the guest's memory", beside >> 10));
        assert!(beside < OVERHEAD, "more than a RuntimeClass is told to allow");

        pod.stop().await;
        assert!(made.0.is_dir(), "the parent is gone");
        assert!(!own_dir.exists());
        pod.remove().await;
    }
}

/// Processes that hold memory in a pod's cgroup, and their end, which is that of the pod at the latest.
struct Filler(Child);

impl Filler {
    const BYTES: u64 = 64_000_000;

    fn start(cgroup: &Path) -> Filler {
        // tail keeps the line that does not end.
        let line = format!(
            "echo $$ >'{}/cgroup.procs' && (head -c {} /dev/zero; sleep 600) | tail >/dev/null",
            cgroup.display(),
            Self::BYTES
        );
        Filler(Command::new("sh").args(["-c", &line]).spawn().expect("start a shell"))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Statistics and metrics tell the same of a pod: what its whole cgroup uses, not the VMM alone.
pub async fn figures(bed: Arc<Bed>) {
    const MEMORY: [&str; 3] =
        ["container_memory_usage_bytes", "container_memory_working_set_bytes", "container_memory_rss"];
    let pod = bed.pod(pod("figures")).await;
    let own = root().join(format!("husk/husk-{}", pod.id));
    let told = async || {
        let mut runtime = bed.client.runtime();
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let stats = runtime.pod_sandbox_stats(request).await.expect("PodSandboxStats").into_inner().stats;
        let memory = stats.and_then(|stats| stats.linux?.memory).expect("figures of memory");
        let stats = [memory.usage_bytes, memory.working_set_bytes, memory.rss_bytes]
            .map(|value| value.expect("a figure").value);
        let answer = runtime.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await;
        let pods = answer.expect("ListPodSandboxMetrics").into_inner().pod_metrics;
        let metrics = &pods.iter().find(|found| found.pod_sandbox_id == pod.id).expect("the pod's").metrics;
        let metrics = MEMORY.map(|name| {
            let found = metrics.iter().find(|metric| metric.name == name).and_then(|metric| metric.value);
            found.unwrap_or_else(|| panic!("{name} is not told")).value
        });
        (stats, metrics)
    };
    let vmm = Process(pod.vmm().await);
    let _filler = Filler::start(&own);
    wait_for("both to tell of a process that is not the VMM", Duration::from_secs(60), || async {
        let (stats, metrics) = told().await;
        let both = (vmm.memory().anonymous << 10) + Filler::BYTES * 9 / 10;
        stats.iter().chain(&metrics).all(|told| *told >= both).then_some(())
    })
    .await;
    pod.remove().await;
}

/// A pod that names no parent, and one whose parent is not there.
pub async fn by_default(bed: Arc<Bed>) {
    let pod = bed.pod(pod("default")).await;
    assert_eq!(cgroup_of(&pod.vmm().await.to_string(), ""), format!("/husk/husk-{}", pod.id));
    pod.remove().await;
    step("a parent that is not there is made");
    let parent = Parent(root().join("made/by-husk"));
    let pod = bed.pod(below("/made/by-husk")).await;
    assert_eq!(cgroup_of(&pod.vmm().await.to_string(), ""), format!("/made/by-husk/husk-{}", pod.id));
    pod.remove().await;
    assert!(parent.0.is_dir(), "what is above the pod's cgroup stays");
}

/// The daemon is killed: the next one finds the cgroup, puts new processes into it and removes it; and that of a pod
/// whose VM has ended meanwhile.
pub async fn found_after_a_restart(bed: Arc<Bed>) {
    let parent = Parent::make("/kubepods/podc-3");
    let (living, dying) =
        tokio::join!(bed.pod(below("/kubepods/podc-3")), bed.pod(below("/kubepods/podc-3")));
    let own = |pod: &Pod| format!("/kubepods/podc-3/husk-{}", pod.id);
    let vmms = (living.vmm().await.to_string(), dying.vmm().await.to_string());
    bed.daemon.kill();
    assert_eq!((cgroup_of(&vmms.0, ""), cgroup_of(&vmms.1, "")), (own(&living), own(&dying)));
    sh(&format!("kill -9 {}", vmms.1));
    bed.daemon.start().await;
    step("the volumes' server that the new daemon starts");
    with_volume(&bed, &living).await;
    for pid in processes(&living).await {
        assert_eq!(cgroup_of(&pid, ""), own(&living));
    }
    for pod in [living, dying] {
        pod.remove().await;
        assert!(!parent.0.join(format!("husk-{}", pod.id)).exists());
    }
    assert!(parent.0.is_dir(), "the parent is gone");
}

/// A hierarchy of version 1 beside that of version 2: pods are in both.
pub async fn both_versions(bed: Arc<Bed>) {
    let old = bed.scratch("version1");
    sh(&format!("mount -t cgroup -o none,name=husk-test cgroup {}", old.display()));
    bed.daemon.kill();
    bed.daemon.start().await;
    let pod = bed.pod(pod("both")).await;
    with_volume(&bed, &pod).await;
    let own = format!("/husk/husk-{}", pod.id);
    for pid in processes(&pod).await {
        assert_eq!((cgroup_of(&pid, ""), cgroup_of(&pid, "name=husk-test")), (own.clone(), own.clone()));
    }
    pod.remove().await;
    assert!(old.join("husk").is_dir() && !old.join(&own[1..]).exists());
    bed.daemon.kill();
    // The default parent stays with the daemon, and so does its conversion workers' cgroup.
    for dir in ["husk/husk-convert", "husk"] {
        fs::remove_dir(old.join(dir)).expect("remove the daemon's cgroups");
    }
    sh(&format!("umount {}", old.display()));
    bed.daemon.start().await;
}

/// Where nothing can be written, pods run without, and the log says so.
pub async fn none_usable(bed: Arc<Bed>) {
    bed.daemon.kill();
    let mut read_only = Command::new("unshare");
    let line = format!("mount -o remount,bind,ro {} && exec \"$@\"", root().display());
    read_only.args(["--mount", "--propagation", "unchanged", "sh", "-ec", &line, "sh"]);
    bed.daemon.start_under(read_only).await;
    assert!(bed.daemon.log_tail().contains("no cgroup hierarchy"), "{}", bed.daemon.log_tail());
    let pod = bed.pod(below("/kubepods/podd-4")).await;
    assert_eq!(pod.output("echo without").await, "without\n");
    assert_eq!(pod.describe().await.info["cgroup"], "");
    pod.remove().await;
    bed.daemon.kill();
    bed.daemon.start().await;
}

/// What kubelet is told to use.
pub async fn driver_is_told(bed: Arc<Bed>) {
    let told = async |client: &Client| {
        let answer = client.runtime().runtime_config(cri::RuntimeConfigRequest::default()).await;
        answer.expect("RuntimeConfig").into_inner().linux.expect("of Linux").cgroup_driver()
    };
    assert_eq!(told(&bed.client).await, cri::CgroupDriver::Cgroupfs);
    let dir = short_dir();
    let daemon = Daemon::prepare(dir.path(), &bed.paths, &bed.cni, &bed.registry.url()).without_templates();
    let mut config =
        fs::OpenOptions::new().append(true).open(&daemon.config).expect("open the configuration");
    config.write_all(b"\n[cgroup]\ndriver = \"systemd\"\n").expect("add to the configuration");
    daemon.start().await;
    assert_eq!(told(&daemon.client()).await, cri::CgroupDriver::Systemd);
}

/// Parents that are none: refused by name, nothing left.
pub async fn bad_parents(bed: Arc<Bed>) {
    let long = "/a".repeat(2000);
    for parent in [
        "/a/../b",
        "..",
        "kubepods/pod1",
        "kubepods",
        "/a\0b",
        "a--b.slice",
        "../x.slice",
        &long,
        "/cgroup.procs",
    ] {
        let request = cri::RunPodSandboxRequest { config: Some(below(parent)), ..Default::default() };
        let outcome = bed.client.runtime().run_pod_sandbox(request).await;
        expect_code(outcome, &[Code::InvalidArgument], &["cgroup"]);
    }
    assert!(bed.client.pods(cri::PodSandboxFilter::default()).await.is_empty());
    bed.check_clean().expect("nothing is left");
}

/// The host's limit on the pod is hit: the kernel kills the VM, and the pod's end says why.
pub async fn memory_of_the_host(bed: Arc<Bed>) {
    let parent = Parent::make("/pode-5");
    let pod = bed.pod(below("/pode-5")).await;
    let inside = pod.start(container("inside", "sleep 3600")).await;
    // A guest's memory cannot be reclaimed where there is no swap.
    fs::write(parent.0.join("memory.swap.max"), "0").expect("forbid swap");
    fs::write(parent.0.join("memory.max"), "8M").expect("limit the pod");
    let status = inside.wait().await;
    assert!(status.exit_code != 0 && status.message.contains("out of memory"), "{status:?}");
    let ready = cri::PodSandboxState::SandboxNotready;
    wait_for("the pod's end", Duration::from_secs(60), || async {
        (pod.status().await.state() == ready).then_some(())
    })
    .await;
    pod.remove().await;
}
