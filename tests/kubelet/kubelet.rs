//! kubelet without a cluster.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use husk_tests::{Bed, run, sh};
use serde_json::{Value, json};

/// Where it serves its API.
const API: &str = "https://127.0.0.1:10250";

/// A running kubelet. It ends with this value; its pods do not.
pub struct Kubelet {
    child: Child,
    manifests: PathBuf,
    log: PathBuf,
}

impl Kubelet {
    /// Starts it beside the node's daemon.
    pub fn start(bed: &Bed) -> Kubelet {
        let dir = bed.scratch("kubelet");
        let [manifests, root, logs] = ["manifests", "root", "logs"].map(|name| dir.join(name));
        for dir in [&manifests, &root, &logs] {
            fs::create_dir_all(dir).expect("make a directory");
        }
        // Volumes that are mounted later are to be seen in pods.
        run(Command::new("mount").arg("--bind").args([&root, &root]));
        run(Command::new("mount").arg("--make-rshared").arg(&root));
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": bed.daemon.endpoint(),
            "staticPodPath": manifests,
            "podLogsDir": logs,
            "address": "127.0.0.1",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "runtimeRequestTimeout": "5m",
            "failSwapOn": false,
            // The bed's disk and memory are as they are.
            "evictionHard": {"memory.available": "1Mi"},
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false,
            "syncFrequency": "5s", "fileCheckFrequency": "2s",
        });
        let path = dir.join("config.yaml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).expect("write kubelet's configuration");
        let log = dir.join("kubelet.log");
        let output = File::create(&log).expect("create kubelet's log");
        let child = Command::new(bed.paths.tool("kubelet"))
            .arg("--config")
            .arg(&path)
            .arg("--root-dir")
            .arg(&root)
            .arg("--cert-dir")
            .arg(dir.join("certificates"))
            .args(["--hostname-override", "testbed", "--v", "2"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate the log's descriptor"))
            .stderr(output)
            .spawn()
            .expect("start kubelet; tests/tools/kubelet builds it");
        Kubelet { child, manifests, log }
    }

    /// Puts a static pod's manifest down, whole.
    pub fn put(&self, name: &str, manifest: &Value) {
        let (new, path) = (self.manifests.join(".new"), self.manifests.join(format!("{name}.yaml")));
        fs::write(&new, manifest.to_string())
            .and_then(|()| fs::rename(new, path))
            .expect("write the manifest");
    }

    /// Takes it away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifests.join(format!("{name}.yaml"))).expect("remove the manifest");
    }

    fn get(&self, path: &str) -> Option<Value> {
        let answer = sh(&format!("curl -sk --max-time 20 {API}{path} || true"));
        serde_json::from_str(&answer).ok()
    }

    /// What it knows of a pod.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let pods = self.get("/pods")?;
        pods["items"].as_array()?.iter().find(|pod| pod["metadata"]["name"] == name).cloned()
    }

    /// The output of a command in a container.
    pub fn run(&self, pod: &str, container: &str, line: &str) -> String {
        let url = format!("{API}/run/default/{pod}/{container}");
        let mut command = Command::new("curl");
        command.args(["-sk", "--max-time", "60", "-X", "POST", "--get", "--data-urlencode"]);
        run(command.arg(format!("cmd={line}")).arg(url))
    }

    /// A container's log.
    pub fn log(&self, pod: &str, container: &str) -> String {
        sh(&format!("curl -sk --max-time 20 {API}/containerLogs/default/{pod}/{container}"))
    }

    /// Does it tell figures that can be true of the pod and each of its two containers?
    pub fn figures(&self, pod: &str) -> bool {
        // Of its endpoints the one that asks the runtime alone; others look for the host's disks as well.
        let answer = sh(&format!("curl -sk --max-time 20 {API}/metrics/resource || true"));
        let of = |name: &str| -> Vec<f64> {
            let pod = format!("pod=\"{pod}\"");
            let lines =
                answer.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(&pod));
            lines.filter_map(|line| line.split_once("} ")?.1.split(' ').next()?.parse().ok()).collect()
        };
        ["cpu_usage_seconds_total", "memory_working_set_bytes"].into_iter().all(|what| {
            let (whole, parts) = (of(&format!("pod_{what}")), of(&format!("container_{what}")));
            whole.len() == 1
                && parts.len() == 2
                && parts.iter().all(|part| *part > 0.0)
                && whole[0] > parts.iter().sum()
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("-- kubelet:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
