//! Figures of pods and containers under load, by name and by structure.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, Container, container, pod, step, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use serde_json::Value;

/// How long a load may take to be seen.
const LIMIT: Duration = Duration::from_secs(90);

/// How much the network carries, bytes.
const SENT: u64 = 2 << 20;

/// Metrics of the node, by pod or container and by name.
struct Metrics {
    by_id: HashMap<String, Vec<cri::Metric>>,
    /// Names to label keys.
    keys: BTreeMap<String, Vec<String>>,
}

impl Metrics {
    async fn read(bed: &Bed) -> Metrics {
        let mut runtime = bed.client.runtime();
        let described = runtime.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await;
        let described = described.expect("ListMetricDescriptors").into_inner().descriptors;
        let keys = described.into_iter().map(|descriptor| (descriptor.name, descriptor.label_keys)).collect();
        let answer = runtime.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await;
        let mut by_id = HashMap::new();
        for pod in answer.expect("ListPodSandboxMetrics").into_inner().pod_metrics {
            by_id.insert(pod.pod_sandbox_id, pod.metrics);
            by_id.extend(pod.container_metrics.into_iter().map(|c| (c.container_id, c.metrics)));
        }
        Metrics { by_id, keys }
    }

    fn find(&self, id: &str, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let keys = self.keys.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        let labelled = |metric: &cri::Metric| {
            let value = |key: &str| keys.iter().position(|k| k == key).map(|at| &metric.label_values[at][..]);
            labels.iter().all(|(key, wanted)| value(key) == Some(*wanted))
        };
        let metrics = self.by_id.get(id)?;
        let found = metrics.iter().find(|metric| metric.name == name && labelled(metric))?;
        found.value.as_ref().map(|value| value.value)
    }

    fn get(&self, id: &str, name: &str) -> u64 {
        self.find(id, name, &[]).unwrap_or_else(|| panic!("{name} of {id} is not told"))
    }

    /// The sum over all devices or interfaces.
    fn sum(&self, id: &str, name: &str) -> u64 {
        let metrics = self.by_id.get(id).into_iter().flatten().filter(|metric| metric.name == name);
        metrics.filter_map(|metric| metric.value.as_ref()).map(|value| value.value).sum()
    }
}

async fn until(bed: &Bed, what: &str, seen: impl Fn(&Metrics) -> bool) -> Metrics {
    wait_for(what, LIMIT, || async { Some(Metrics::read(bed).await).filter(&seen) }).await
}

fn limited(mut config: cri::ContainerConfig, limits: cri::LinuxContainerResources) -> cri::ContainerConfig {
    config.linux.get_or_insert_default().resources = Some(limits);
    config
}

/// Each kind of load shows where it belongs, and nowhere else.
pub async fn under_load(bed: Arc<Bed>) {
    let pod = bed.pod(pod("load")).await;
    let idle = pod.start(container("idle", "sleep 3600")).await;

    step("CPU time, and a limit of it");
    let quota = cri::LinuxContainerResources { cpu_quota: 50_000, cpu_period: 100_000, ..Default::default() };
    let burning = pod.start(limited(container("burning", "while :; do :; done"), quota)).await;
    let cpu = "container_cpu_usage_seconds_total";
    let before = Metrics::read(&bed).await;
    let seen = until(&bed, "CPU time to grow", |seen| {
        seen.get(&burning.id, cpu) >= before.get(&burning.id, cpu) + 2
    })
    .await;
    assert!(seen.get(&burning.id, "container_cpu_cfs_throttled_periods_total") > 0);
    let periods = seen.get(&burning.id, "container_cpu_cfs_periods_total");
    assert!(periods >= seen.get(&burning.id, "container_cpu_cfs_throttled_periods_total"));
    assert_eq!(seen.get(&burning.id, "container_spec_cpu_quota"), 50_000);
    assert_eq!(seen.find(&idle.id, "container_spec_cpu_quota", &[]), None);
    assert!(seen.get(&idle.id, cpu) < seen.get(&burning.id, cpu));
    assert!(seen.get(&pod.id, cpu) >= seen.get(&burning.id, cpu), "the VM has all of its containers' time");
    burning.stop(0).await;

    step("memory, and too much of it");
    let holding = pod.start(container("holding", "dd if=/dev/zero bs=40M count=1 | sleep 3600")).await;
    let rss = "container_memory_rss";
    let seen = until(&bed, "memory to be held", |seen| seen.get(&holding.id, rss) >= 40 << 20).await;
    assert!(seen.get(&holding.id, "container_memory_usage_bytes") >= 40 << 20);
    assert!(seen.get(&holding.id, "container_memory_max_usage_bytes") >= 40 << 20);
    assert!(seen.get(&idle.id, rss) < 20 << 20);
    assert!(seen.get(&pod.id, rss) >= 40 << 20);
    assert_eq!(seen.get(&holding.id, "container_processes"), 3, "a shell and two commands");
    assert_eq!(seen.get(&holding.id, "container_memory_swap"), 0);
    holding.stop(0).await;
    let limit = cri::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
    let hungry = pod.start(limited(container("hungry", "tail /dev/zero; sleep 3600"), limit)).await;
    let oom = "container_oom_events_total";
    let seen = until(&bed, "the kernel to kill", |seen| seen.get(&hungry.id, oom) > 0).await;
    assert_eq!(seen.get(&idle.id, oom), 0);
    assert!(seen.get(&hungry.id, "container_memory_failcnt") > 0);
    assert!(seen.get(&hungry.id, "container_memory_max_usage_bytes") > 30 << 20);
    assert_eq!(seen.get(&hungry.id, "container_spec_memory_limit_bytes"), 32 << 20);
    hungry.stop(0).await;

    step("disks");
    let line = "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; sync; sleep 3600";
    let writing = pod.start(container("writing", line)).await;
    let written = |seen: &Metrics, id: &str| seen.sum(id, "container_fs_writes_bytes_total");
    // The pod's figure is of the VMM, a moment older than the guest's.
    let seen = until(&bed, "what was written", |seen| {
        let all = [written(seen, &writing.id), written(seen, &pod.id)];
        let used = seen.get(&writing.id, "container_fs_usage_bytes");
        all.into_iter().chain([used]).all(|bytes| bytes >= 3 << 20)
    })
    .await;
    assert!(written(&seen, &idle.id) < 1 << 20);
    assert!(seen.get(&writing.id, "container_fs_limit_bytes") > 64 << 20);
    let is_on = |device: String| {
        seen.find(&writing.id, "container_fs_usage_bytes", &[("device", device.as_str())]).is_some()
    };
    assert!(('a'..='z').any(|letter| is_on(format!("/dev/vd{letter}"))));
    let labels = [("operation", "Write")];
    assert!(seen.find(&writing.id, "container_blkio_device_usage_total", &labels).is_some());

    step("the network");
    let line = format!("head -c {SENT} /dev/zero >/file; exec nc -l -p 80 -e cat /file");
    pod.start(container("sending", &line)).await;
    let address = format!("{}:80", pod.ip().await);
    let sent = "container_network_transmit_bytes_total";
    let before = Metrics::read(&bed).await.get(&pod.id, sent);
    let mut stream = wait_for("the server", LIMIT, || async { TcpStream::connect(&address).ok() }).await;
    stream.set_read_timeout(Some(LIMIT)).expect("set a timeout");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("read what is sent");
    assert_eq!(received.len() as u64, SENT);
    let seen = Metrics::read(&bed).await;
    let labels = [("interface", "eth0"), ("container", "POD"), ("namespace", "test")];
    let after = seen.find(&pod.id, sent, &labels).expect("by its interface");
    assert!((SENT..2 * SENT).contains(&(after - before)), "{before} to {after}");
    assert!(seen.get(&pod.id, "container_network_receive_packets_total") > 10);
    assert_eq!(seen.get(&pod.id, "container_network_receive_errors_total"), 0);

    step("the same by structure");
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = bed.client.runtime().pod_sandbox_stats(request).await.expect("PodSandboxStats");
    let linux = stats.into_inner().stats.and_then(|stats| stats.linux).expect("figures");
    let network = linux.network.and_then(|network| network.default_interface).expect("an interface");
    assert_eq!(network.name, "eth0");
    assert!(network.tx_bytes.is_some_and(|bytes| bytes.value >= after));
    let by_id = |id: &str| {
        let stats = linux.containers.iter().find(|s| s.attributes.as_ref().is_some_and(|a| a.id == id));
        stats.unwrap_or_else(|| panic!("{id} has no figures")).clone()
    };
    let writable = by_id(&writing.id).writable_layer.and_then(|layer| layer.used_bytes);
    assert!(writable.is_some_and(|bytes| bytes.value >= 3 << 20));
    assert!(by_id(&idle.id).cpu.and_then(|cpu| cpu.psi).is_some_and(|psi| psi.some.is_some()));
    by_crictl(&bed, &pod.id, &idle);
}

fn by_crictl(bed: &Bed, pod: &str, container: &Container) {
    step("by crictl");
    let crictl = bed.crictl();
    let parse = |args: &[&str]| -> Value { serde_json::from_str(&crictl.run(args)).expect("JSON") };
    let described = parse(&["metricdescs"]).to_string();
    assert!(described.contains("container_cpu_usage_seconds_total"), "{described}");
    let metrics = parse(&["metricsp"]).to_string();
    for part in
        [pod, &container.id, "container_network_receive_bytes_total", "container_memory_working_set_bytes"]
    {
        assert!(metrics.contains(part), "crictl metricsp does not show {part}: {metrics}");
    }
    let stats = parse(&["statsp", "-o", "json", "--id", pod]);
    let linux = &stats["stats"][0]["linux"];
    assert_eq!(linux["network"]["defaultInterface"]["name"], "eth0", "{stats}");
    let number = |value: &Value| value["value"].as_str().and_then(|text| text.parse::<u64>().ok());
    assert!(number(&linux["memory"]["usageBytes"]).is_some_and(|bytes| bytes > 20 << 20), "{stats}");
    let stats = parse(&["stats", "-o", "json", "--id", &container.id]);
    assert!(number(&stats["stats"][0]["memory"]["usageBytes"]).is_some_and(|bytes| bytes > 0), "{stats}");
    assert!(crictl.run(&["statsp"]).contains(&pod[..12]));
    assert!(crictl.run(&["stats"]).contains(&container.id[..12]));
}

/// A VM that does not answer costs its own pod's figures, and nobody else's.
pub async fn hung_guest(bed: Arc<Bed>) {
    let (hung, well) = tokio::join!(bed.pod(pod("hung")), bed.pod(pod("well")));
    let inside = hung.start(container("inside", "sleep 3600")).await;
    let beside = well.start(container("beside", "sleep 3600")).await;
    let listed = async || {
        let (mut first, mut second) = (bed.client.runtime(), bed.client.runtime());
        let (containers, pods, metrics) = tokio::join!(
            first.list_container_stats(cri::ListContainerStatsRequest::default()),
            second.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default()),
            Metrics::read(&bed)
        );
        let containers = containers.expect("ListContainerStats").into_inner().stats;
        let pods = pods.expect("ListPodSandboxStats").into_inner().stats;
        let mut ids: Vec<String> = containers.into_iter().filter_map(|s| Some(s.attributes?.id)).collect();
        ids.extend(pods.into_iter().filter_map(|stats| Some(stats.attributes?.id)));
        ids.sort();
        (ids, metrics)
    };
    let all = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    let vmm = ProcessId::from_raw(hung.vmm().await);
    kill(vmm, Signal::SIGSTOP).expect("stop the VMM");
    let asked = tokio::time::timeout(Duration::from_secs(40), listed()).await;
    kill(vmm, Signal::SIGCONT).expect("let the VMM go on");
    let (ids, metrics) = asked.expect("the lists wait for the hung one less long than a call to it may take");
    assert_eq!(ids, all(&[&beside.id, &well.id]));
    assert!(metrics.by_id.contains_key(&beside.id) && !metrics.by_id.contains_key(&inside.id));

    step("it goes on");
    assert_eq!(inside.exec("echo well").await, "well\n");
    let (ids, metrics) = listed().await;
    assert_eq!(ids, all(&[&inside.id, &hung.id, &beside.id, &well.id]));
    assert!(metrics.by_id.contains_key(&inside.id));
}
