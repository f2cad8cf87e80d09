//! What kubelet is asked to run.

use std::path::Path;

use serde_json::{Value, json};

const BUSYBOX: &str = "docker.io/husk/busybox:latest";

/// A pod with most of what pods have; `host` is a directory of the node.
pub fn web(host: &Path) -> Value {
    let shell = |line: &str| json!(["sh", "-c", line]);
    let limits = json!({"cpu": "500m", "memory": "64Mi"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "hostname": "web-host",
            "terminationGracePeriodSeconds": 20,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000},
            "initContainers": [{
                "name": "prepare", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": shell("echo made by the init container >/data/index.html"),
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "containers": [{
                "name": "server", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": shell("touch /tmp/alive; exec httpd -f -p 8080 -h /data"),
                "env": [
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                ],
                "ports": [{"containerPort": 8080, "hostPort": 18080}],
                "resources": {"limits": limits, "requests": limits},
                "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 2, "timeoutSeconds": 5},
                "livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 5,
                    "timeoutSeconds": 10, "failureThreshold": 1, "terminationGracePeriodSeconds": 2},
                "lifecycle": {"preStop": {"exec": {"command": shell("echo stopping >/host/farewell")}}},
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data", "readOnly": true},
                    {"name": "cache", "mountPath": "/cache"},
                    {"name": "host", "mountPath": "/host"},
                ],
            }, {
                "name": "worker", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": shell("if mkdir /data/once 2>/dev/null; then
                    echo -n no second time yet >/dev/termination-log; exit 7
                    fi; echo the second time; exec sleep 3600"),
                "resources": {"limits": limits, "requests": limits},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
            ],
        },
    })
}
