//! Classes of pods: VMs as their RuntimeClass's handler says.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_tests::{Bed, Pod, container, entries, expect_code, pod, sh, step, wait_for};
use tonic::{Code, Status};

/// A line of /proc/meminfo.
fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("read meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).expect(key);
    number.parse().expect("a number")
}

async fn run(bed: &Bed, handler: &str) -> Result<Pod, Status> {
    Pod::try_run(&bed.client, handler, bed.with_logs(pod(handler))).await
}

/// The CPUs and the nice value of each thread of a process, by the thread's name.
fn threads(pid: i32) -> BTreeMap<String, (String, i32)> {
    husk_tests::entries(format!("/proc/{pid}/task").as_ref())
        .iter()
        .map(|task| {
            let read = |name: &str| fs::read_to_string(task.join(name)).expect("read of a thread");
            let status = read("status");
            let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("CPUs");
            let stat = read("stat");
            let (_, fields) = stat.rsplit_once(')').expect("the name's end");
            let nice = fields.split_whitespace().nth(16).and_then(|nice| nice.parse().ok()).expect("nice");
            (read("comm").trim().to_owned(), (cpus.trim().to_owned(), nice))
        })
        .collect()
}

/// CPUs, priority and huge pages, for the pods of one handler alone.
pub async fn tuned(bed: Arc<Bed>) {
    let last = std::thread::available_parallelism().expect("the number of CPUs").get() - 1;
    let tables =
        format!("[handlers.tuned]\nvcpu_cpus = [{last}]\nnice = -7\nhuge_pages = true\nmemory_mib = 128\n");
    bed.daemon.restart_with("", &tables).await;
    step("without huge pages on the host");
    assert_eq!(meminfo("HugePages_Total"), 0);
    expect_code(run(&bed, "tuned").await, &[Code::Internal], &["128 MiB", "HugePages_Free"]);
    sh("echo 70 > /proc/sys/vm/nr_hugepages");
    assert_eq!(meminfo("HugePages_Free"), 70, "the bed has not enough memory in one piece");
    step("with some");
    let tuned = run(&bed, "tuned").await.expect("RunPodSandbox");
    let plain = bed.pod(pod("plain")).await;
    // Some are used, and the rest of the guest's memory is reserved.
    let left = meminfo("HugePages_Free") - meminfo("HugePages_Rsvd");
    assert_eq!(left, 70 - 64);
    for (name, (cpus, nice)) in threads(tuned.vmm().await) {
        assert_eq!(nice, -7, "{name}");
        // Where there is one CPU all run there; that a thread is tied to its own is shown by husk-vmm's unit tests.
        let tied = cpus == last.to_string();
        assert!(if last == 0 { tied } else { tied == name.starts_with("vcpu") }, "{name} runs on {cpus}");
    }
    assert!(threads(plain.vmm().await).values().all(|(_, nice)| *nice == 0));
    assert_eq!(tuned.output("echo here").await, "here\n");
    step("a second one does not fit, and the first goes on");
    expect_code(run(&bed, "tuned").await, &[Code::Internal], &["HugePages_Free"]);
    assert_eq!(tuned.output("echo here").await, "here\n");
    tuned.remove().await;
    assert_eq!(meminfo("HugePages_Free"), 70);
    sh("echo 0 > /proc/sys/vm/nr_hugepages");
    step("a CPU that is not there, and a disk of 4 MiB a second");
    let tables = "[handlers.tuned]\nvcpu_cpus = [999]\n[handlers.slow]\ndisk_bytes = 4194304\n";
    bed.daemon.restart_with("", tables).await;
    expect_code(run(&bed, "tuned").await, &[Code::Internal], &["vCPU 0", "CPU 999"]);
    let slow = run(&bed, "slow").await.expect("RunPodSandbox");
    let begun = Instant::now();
    slow.output("dd if=/dev/zero of=/much bs=1M count=20 oflag=direct 2>/dev/null").await;
    // One second's worth may come at once, and one request more.
    assert!(
        begun.elapsed() >= Duration::from_millis(3700),
        "20 MiB were written within {:?}",
        begun.elapsed()
    );
    slow.remove().await;
    bed.daemon.restart_with("", "").await;
}

/// A handler's pods have several queues to the network: as many are used as they have CPUs.
pub async fn network_queues(bed: Arc<Bed>) {
    bed.daemon.restart_with("templates = false\n", "").await;
    bed.daemon.restart_with("", "[handlers.nfv]\nnet_queues = 2\n").await;
    let with_cpus = async |cpus: i64| {
        let mut config = bed.with_logs(pod("nfv"));
        let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
        (resources.cpu_period, resources.cpu_quota) = (100_000, cpus * 100_000);
        Pod::try_run(&bed.client, "nfv", config).await.expect("RunPodSandbox")
    };
    const QUEUES: &str = "echo $(ls /sys/class/net/eth0/queues)";
    let booted = with_cpus(2).await;
    assert!(!booted.is_clone().await);
    let line = "mkdir /srv; dd if=/dev/urandom of=/srv/data bs=64k count=5 2>/dev/null; md5sum </srv/data
                exec httpd -f -p 7000 -h /srv";
    let server = booted.start(container("server", line)).await;
    server.wait_log("-\n").await;
    assert_eq!(server.exec(QUEUES).await, "rx-0 rx-1 tx-0 tx-1\n");
    wait_for("a template", Duration::from_secs(120), || async {
        let builds = bed.daemon.templates();
        let all = builds.iter().filter(|dir| dir.is_dir()).flat_map(|dir| entries(dir));
        all.into_iter().any(|dir| dir.extension().is_none()).then_some(())
    })
    .await;
    for (cpus, queues) in [(1, "rx-0 tx-0\n"), (2, "rx-0 rx-1 tx-0 tx-1\n")] {
        step(format!("a clone with {cpus} CPU(s)"));
        let clone = with_cpus(cpus).await;
        assert!(clone.is_clone().await, "{}", bed.daemon.log_tail());
        let get = format!("wget -qO- http://{}:7000/data | md5sum >/$n &", booted.ip().await);
        let line = format!("{QUEUES}; for n in 1 2 3 4; do {get} done; wait; cat /[1-4]");
        let (seen, status) = clone.complete(container("client", &line)).await;
        assert_eq!((status.exit_code, seen.text()), (0, format!("{queues}{}", server.text().repeat(4))));
        clone.remove().await;
    }
    bed.clear().await;
    bed.daemon.restart_with("templates = false\n", "").await;
    bed.daemon.restart_with("", "").await;
}
