//! With the real crictl.

use std::fs;
use std::sync::Arc;

use husk_tests::{BUSYBOX, Bed, step, unique, wait_for};
use serde_json::{Value, json};

/// Every command of a pod's life, as a person types it.
pub async fn whole_life(bed: Arc<Bed>) {
    const NGINX: &str = "docker.io/husk/nginx:latest";
    let crictl = bed.crictl();
    let parse = |text: String| -> Value { serde_json::from_str(&text).expect("crictl prints JSON") };
    let dir = bed.scratch("crictl");
    let write = |name: &str, value: Value| {
        let path = dir.join(name);
        fs::write(&path, value.to_string()).expect("write the configuration");
        path.display().to_string()
    };

    step("crictl version, info, pull, images");
    assert!(crictl.run(&["version"]).contains("husk"));
    let info = parse(crictl.run(&["info"]));
    for condition in info["status"]["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["status"], true, "{condition}");
    }
    let pulled = crictl.run(&["pull", NGINX]);
    assert!(pulled.contains("Image is up to date for"), "{pulled}");
    let images = parse(crictl.run(&["images", "-o", "json"]));
    let tags: Vec<&Value> =
        images["images"].as_array().expect("images").iter().map(|i| &i["repoTags"]).collect();
    assert!(tags.contains(&&json!([NGINX])) && tags.contains(&&json!([BUSYBOX])), "{tags:?}");

    step("crictl runp, create, start");
    let name = unique("crictl");
    let pod_file = write(
        "pod.json",
        json!({
            "metadata": {"name": name, "namespace": "test", "uid": name, "attempt": 0},
            "hostname": "by-crictl", "log_directory": dir, "linux": {},
            "labels": {"app": "crictl"},
        }),
    );
    let container_file = write(
        "container.json",
        json!({
            "metadata": {"name": "shell"}, "image": {"image": BUSYBOX}, "log_path": "shell.log", "linux": {},
            "command": ["sh", "-c", "echo to stdout; echo to stderr >&2; hostname; sleep 3600"],
        }),
    );
    let pod = crictl.run(&["runp", &pod_file]);
    let container = crictl.run(&["create", &pod, &container_file, &pod_file]);
    assert_eq!(crictl.run(&["start", &container]), container);

    step("crictl ps, pods, inspect, inspectp");
    assert_eq!(crictl.run(&["pods", "-q", "--no-trunc"]), pod);
    assert_eq!(crictl.run(&["ps", "-q", "--no-trunc"]), container);
    assert!(crictl.run(&["ps"]).contains("Running"));
    let inspected = parse(crictl.run(&["inspect", &container]));
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(inspected["status"]["metadata"]["name"], "shell");
    let inspected = parse(crictl.run(&["inspectp", &pod]));
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY");
    let ip = inspected["status"]["network"]["ip"].as_str().unwrap_or_default();
    assert!(ip.starts_with("10.88."), "the pod's address is {ip:?}");

    step("crictl logs, exec -s");
    wait_for("the container's output", std::time::Duration::from_secs(30), || async {
        crictl.run(&["logs", &container]).contains("by-crictl").then_some(())
    })
    .await;
    let logs = crictl.output(&["logs", &container]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "to stdout\nby-crictl\n");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "to stderr\n");
    assert_eq!(crictl.run(&["exec", "-s", &container, "echo", "from", "exec"]), "from exec");
    let failed = crictl.output(&["exec", "-s", &container, "sh", "-c", "exit 3"]);
    assert!(!failed.status.success(), "{failed:?}");

    step("crictl stats");
    let stats = parse(crictl.run(&["stats", "-o", "json", &container]));
    let memory = stats["stats"][0]["memory"]["workingSetBytes"]["value"].as_str().unwrap_or_default();
    assert!(memory.parse::<u64>().is_ok_and(|bytes| bytes > 0), "{stats}");

    step("crictl stop, rm, stopp, rmp, rmi");
    crictl.run(&["stop", "--timeout", "1", &container]);
    assert!(crictl.run(&["ps", "-a"]).contains("Exited"));
    crictl.run(&["rm", &container]);
    assert_eq!(crictl.run(&["ps", "-a", "-q"]), "");
    crictl.run(&["stopp", &pod]);
    assert!(crictl.run(&["pods"]).contains("NotReady"));
    crictl.run(&["rmp", &pod]);
    assert_eq!(crictl.run(&["pods", "-q"]), "");
    crictl.run(&["rmi", NGINX]);
    assert!(!crictl.run(&["images"]).contains("husk/nginx"));
}
