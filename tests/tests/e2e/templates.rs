//! Pods whose VMs are clones of templates.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use husk_proto::cri;
use husk_tests::{Bed, Pod, container, pod, sh, step, wait_for};

/// How long a template may take to be made.
const MAKING: Duration = Duration::from_secs(120);
const CLONES: usize = 20;

/// Starts the daemon anew, with templates or without.
async fn switch(bed: &Bed, on: bool) {
    let text = fs::read_to_string(&bed.daemon.config).expect("read the configuration");
    let (key, plain) = ("[vm]\ntemplates = true\n", "[vm]\n");
    let off = text.replacen(key, plain, 1);
    let text = if on { off.replacen(plain, key, 1) } else { off };
    bed.daemon.kill();
    fs::write(&bed.daemon.config, text).expect("write the configuration");
    bed.daemon.start().await;
}

/// The directories of the templates that are whole.
fn templates(bed: &Bed) -> Vec<PathBuf> {
    let dirs = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = dirs(bed.daemon.root.join("templates")).flat_map(dirs).collect();
    found.retain(|dir| dir.is_dir() && dir.extension().is_none_or(|extension| extension != "new"));
    found
}

async fn template_made(bed: &Bed) -> PathBuf {
    wait_for("a template", MAKING, || {
        let found = templates(bed).pop();
        async move { found }
    })
    .await
}

/// Whether the pod's VM went on from a template.
fn is_clone(bed: &Bed, pod: &Pod) -> bool {
    let path = bed.daemon.run.join("pods").join(&pod.id).join("vmm.json");
    fs::read_to_string(&path).expect("read the VM's description").contains("\"restore\": {")
}

/// What a pod's guest has for itself, a line each.
const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; \
                        head -c 16 /dev/urandom | md5sum; date +%s";

/// Many clones of one template at once, with nothing in common that is not meant to be.
pub async fn clones_differ(bed: Arc<Bed>) {
    switch(&bed, true).await;
    let first = bed.pod(pod("first")).await;
    assert!(!is_clone(&bed, &first));
    template_made(&bed).await;
    let mut pods = Vec::new();
    let mut seen: [BTreeSet<String>; 3] = Default::default();
    for number in 0..CLONES {
        step(format!("clone {number}"));
        let pod = bed.pod(pod(&format!("clone{number}"))).await;
        assert!(is_clone(&bed, &pod), "{}", bed.daemon.log_tail());
        let text = pod.output(IDENTITY).await;
        let lines: Vec<&str> = text.lines().collect();
        let [boot_id, mac, random, time] = lines.as_slice() else { panic!("{text:?}") };
        for (set, line) in seen.iter_mut().zip([boot_id, mac, random]) {
            assert!(set.insert((*line).to_owned()), "{line} of clone {number} is another's too");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let time: u64 = time.parse().expect("a time");
        assert!(now.abs_diff(time) < 30, "the clone's clock says {time}, and it is {now}");
        pods.push(pod);
    }
    let vmm = pods[CLONES - 1].vmm().await;
    let text = fs::read_to_string(format!("/proc/{vmm}/smaps_rollup")).expect("read the VMM's memory");
    let pss = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
    step(format!("the last clone, a container in it having run: {pss}"));
    drop(first);
    switch(&bed, false).await;
}

/// A clone is as large as its pod asks for, and outlives its template and the daemon.
pub async fn clone_of_own_size(bed: Arc<Bed>) {
    switch(&bed, true).await;
    let first = bed.pod(pod("first")).await;
    let template = template_made(&bed).await;
    drop(first);
    let mut config = pod("large");
    let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
    (resources.cpu_period, resources.cpu_quota) = (100_000, 200_000);
    resources.memory_limit_in_bytes = 512 << 20;
    let large = bed.pod(config).await;
    assert!(is_clone(&bed, &large), "{}", bed.daemon.log_tail());
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
    let with_volume = cri::ContainerConfig { mounts, ..container("goes-on", "sleep 3600") };
    let container = large.start(with_volume).await;
    let line = "cat /volume/note; dd if=/dev/urandom of=/volume/much bs=1M count=20 2>/dev/null; md5sum /volume/much";
    let seen = container.exec(line).await;
    let (note, sum) = seen.split_once('\n').expect("two lines");
    assert_eq!(note, "from the host");
    assert_eq!(sh(&format!("md5sum {}", host.join("much").display()))[..32], sum[..32]);
    step("the template is damaged, and the next pod boots");
    let state = template.join("state");
    let mut bytes = fs::read(&state).expect("read the template's state");
    bytes[1000] ^= 1;
    fs::write(&state, bytes).expect("damage the template");
    let booted = bed.pod(pod("booted")).await;
    assert!(!is_clone(&bed, &booted));
    assert!(bed.daemon.log_tail().contains("damaged: its checksum differs"), "{}", bed.daemon.log_tail());
    assert_eq!(booted.output("echo up").await, "up\n");
    step("without templates nothing of them is kept, and clones go on");
    switch(&bed, false).await;
    assert!(templates(&bed).is_empty());
    assert_eq!(container.exec("echo here").await, "here\n");
}
