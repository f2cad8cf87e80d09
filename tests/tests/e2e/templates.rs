//! Pods whose VMs are clones of templates.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use husk_proto::cri;
use husk_tests::{Bed, Pod, container, entries, expect_code, pod, sh, step, wait_for};
use tonic::Code;

/// How long a template may take to be made.
pub const MAKING: Duration = Duration::from_secs(120);
const CLONES: usize = 20;

/// Templates anew: without them, none is kept.
pub async fn without_then_with(bed: &Bed, others: &str) {
    bed.daemon.restart_with("templates = false\n", "").await;
    assert!(templates(bed).is_empty());
    bed.daemon.restart_with("", others).await;
}

/// The directories of the templates that are whole.
pub fn templates(bed: &Bed) -> Vec<PathBuf> {
    let builds = bed.daemon.templates();
    let found = builds.iter().filter(|dir| dir.is_dir()).flat_map(|dir| entries(dir));
    found.filter(|dir| dir.is_dir() && dir.extension().is_none_or(|extension| extension != "new")).collect()
}

/// Changes a bit of a template's state.
pub fn damage(template: &Path) {
    let state = template.join("state");
    let mut bytes = fs::read(&state).expect("read the template's state");
    bytes[1000] ^= 1;
    fs::write(&state, bytes).expect("damage the template");
}

async fn templates_made(bed: &Bed, number: usize) -> Vec<PathBuf> {
    wait_for("a template", MAKING, || {
        let found = templates(bed);
        async move { (found.len() >= number).then_some(found) }
    })
    .await
}

/// What a pod's guest has for itself, a line each.
const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; \
                        head -c 16 /dev/urandom | md5sum; date +%s";

/// Many clones of one template at once, with nothing in common that is not meant to be.
pub async fn clones_differ(bed: Arc<Bed>) {
    without_then_with(&bed, "").await;
    let first = bed.pod(pod("first")).await;
    assert!(!first.is_clone().await);
    let template = templates_made(&bed, 1).await.remove(0);
    let mut pods = Vec::new();
    let mut seen: [BTreeSet<String>; 4] = Default::default();
    for number in 0..CLONES {
        step(format!("clone {number}"));
        let pod = bed.pod(pod(&format!("clone{number}"))).await;
        assert!(pod.is_clone().await, "{}", bed.daemon.log_tail());
        let machine_id = pod.describe().await.info["machineId"].clone();
        assert_eq!(machine_id.len(), 32, "{machine_id:?}");
        let text = pod.output(IDENTITY).await;
        let lines: Vec<&str> = text.lines().collect();
        let [boot_id, mac, random, time] = lines.as_slice() else { panic!("{text:?}") };
        for (set, line) in seen.iter_mut().zip([boot_id, mac, random, machine_id.as_str()]) {
            assert!(set.insert(line.to_owned()), "{line} of clone {number} is another's too");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let time: u64 = time.parse().expect("a time");
        assert!(now.abs_diff(time) < 30, "the clone's clock says {time}, and it is {now}");
        pods.push(pod);
        if number == 0 {
            // Those that follow have copies of the pages that this one has written to.
            wait_for("what the first clone shows", MAKING, || async {
                template.join("written").is_file().then_some(())
            })
            .await;
        }
    }
    let vmm = pods[CLONES - 1].vmm().await;
    let text = fs::read_to_string(format!("/proc/{vmm}/smaps_rollup")).expect("read the VMM's memory");
    let pss = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
    step(format!("the last clone, a container in it having run: {pss}"));
}

/// A clone is as large as its pod asks for, and outlives its template and the daemon.
pub async fn clone_of_own_size(bed: Arc<Bed>) {
    without_then_with(&bed, "").await;
    let first = bed.pod(pod("first")).await;
    let template = templates_made(&bed, 1).await.remove(0);
    drop(first);
    let mut config = pod("large");
    let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
    (resources.cpu_period, resources.cpu_quota) = (100_000, 200_000);
    resources.memory_limit_in_bytes = 512 << 20;
    let large = bed.pod(config).await;
    assert!(large.is_clone().await, "{}", bed.daemon.log_tail());
    let text = large.output("nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo").await;
    let (cpus, memory) = text.trim().split_once('\n').expect("two lines");
    assert_eq!(cpus, "2");
    assert!(memory.parse::<u32>().expect("MiB") > 450, "{memory} MiB");
    let host = bed.scratch("volume");
    fs::write(host.join("note"), "from the host\n").expect("write a file");
    let mounts = vec![cri::Mount {
        host_path: host.display().to_string(),
        container_path: "/volume".into(),
        ..Default::default()
    }];
    let with_volume = cri::ContainerConfig { mounts: mounts.clone(), ..container("goes-on", "sleep 3600") };
    let container = large.start(with_volume).await;
    let line = "cat /volume/note; dd if=/dev/urandom of=/volume/much bs=1M count=20 2>/dev/null; md5sum /volume/much";
    let seen = container.exec(line).await;
    let (note, sum) = seen.split_once('\n').expect("two lines");
    assert_eq!(note, "from the host");
    assert_eq!(sh(&format!("md5sum {}", host.join("much").display()))[..32], sum[..32]);
    step("the template is damaged, and the next pod boots");
    damage(&template);
    let booted = bed.pod(pod("booted")).await;
    assert!(!booted.is_clone().await);
    assert!(bed.daemon.log_tail().contains("damaged: its checksum differs"), "{}", bed.daemon.log_tail());
    step("its guest binds the devices that it has booted without");
    let resources =
        Some(cri::LinuxContainerResources { memory_limit_in_bytes: 512 << 20, ..Default::default() });
    let linux = Some(cri::LinuxContainerConfig { resources, ..Default::default() });
    let line = "cat /volume/note; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
    let (late, status) =
        booted.complete(cri::ContainerConfig { mounts, linux, ..husk_tests::container("late", line) }).await;
    let text = late.text();
    let (note, memory) = text.trim().split_once('\n').unwrap_or_else(|| panic!("{text:?}, {status:?}"));
    assert_eq!(note, "from the host");
    assert!(memory.parse::<u32>().expect("MiB") > 450, "{memory} MiB");
    step("without templates nothing of them is kept, and clones go on");
    without_then_with(&bed, "").await;
    assert_eq!(container.exec("echo here").await, "here\n");
}

/// Small pods of different sizes are clones of one template.
pub async fn small_sizes(bed: Arc<Bed>) {
    let sized = |mib: i64| {
        let mut config = pod("small");
        let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
        resources.memory_limit_in_bytes = mib << 20;
        config
    };
    without_then_with(&bed, "").await;
    // The VM's memory is the limit and 64 MiB: 130, 190, 135, a little more than 128 all of them.
    let first = bed.pod(sized(66)).await;
    assert!(!first.is_clone().await);
    templates_made(&bed, 1).await;
    let memory = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
    let mut totals = Vec::new();
    for mib in [126, 71] {
        let clone = bed.pod(sized(mib)).await;
        assert!(clone.is_clone().await, "{}", bed.daemon.log_tail());
        totals.push(clone.output(memory).await.trim().parse::<u32>().expect("MiB"));
    }
    let [large, small] = totals[..] else { panic!("{totals:?}") };
    assert!((large - small).abs_diff(55) <= 2, "{totals:?} of pods with limits of 126 and 71 MiB");
}

/// Pods of different handlers, and of different namespaces where that is configured, never share a template; a handler
/// can do without.
pub async fn who_shares(bed: Arc<Bed>) {
    let handlers = "[handlers.other]\n[handlers.private]\ntemplates = false\nmemory_mib = 128\n\
                    [handlers.tenants]\ntemplate_scope = \"namespace\"\n";
    without_then_with(&bed, handlers).await;
    let run = async |handler: &str, namespace: &str| {
        let mut config = bed.with_logs(pod("class"));
        config.metadata.get_or_insert_default().namespace = namespace.into();
        Pod::try_run(&bed.client, handler, config).await
    };
    for (handler, namespace, cloned, templates) in [
        ("", "a", false, 1),
        ("husk", "b", true, 1),
        ("other", "a", false, 2),
        ("private", "a", false, 2),
        ("tenants", "a", false, 3),
        ("tenants", "b", false, 4),
        ("tenants", "a", true, 4),
    ] {
        let pod = run(handler, namespace).await.expect("RunPodSandbox");
        assert_eq!(pod.is_clone().await, cloned, "{handler:?} in {namespace:?}: {}", bed.daemon.log_tail());
        templates_made(&bed, templates).await;
        let handler = pod.status().await.runtime_handler;
        if handler == "private" {
            let memory = pod.output("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo").await;
            assert!(memory.trim().parse::<u32>().expect("MiB") < 128, "{memory}");
        }
        pod.remove().await;
    }
    assert_eq!(templates(&bed).len(), 4);
    expect_code(run("runc", "a").await, &[Code::InvalidArgument], &["runc", "tenants"]);
    let mut status = bed.client.runtime();
    let status = status.status(cri::StatusRequest::default()).await.expect("Status").into_inner();
    let names: Vec<String> = status.runtime_handlers.into_iter().map(|handler| handler.name).collect();
    assert_eq!(names, ["", "husk", "other", "private", "tenants"]);
    without_then_with(&bed, "").await;
}
