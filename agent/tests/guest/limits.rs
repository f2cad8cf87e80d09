//! What a container may use, and what is counted.

use husk_proto::agent::*;
use serde_json::json;
use tonic::Code;

use crate::pod::{Pod, own, refused};

pub async fn memory(pod: &Pod) {
    let limit =
        |spec: &mut serde_json::Value| spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    let id = pod.started_as(pod.request_with(&["tail", "/dev/zero"], limit)).await;
    let exit = pod.wait(&own(&id)).await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    pod.delete(&id).await;
    // Killed by another hand, it is not for want of memory.
    let id = pod.started_as(pod.request_with(&["sleep", "1000"], limit)).await;
    pod.signal(&own(&id), 9).await;
    assert!(!pod.wait(&own(&id)).await.oom_killed);
    pod.delete(&id).await;
}

pub async fn figures(pod: &Pod) {
    let id = pod
        .started(
            "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; seq 1 200000 >/dev/null; echo; sleep 1000",
        )
        .await;
    let (_acks, mut chunks) = pod.stream(&own(&id), 0).await.unwrap();
    chunks.message().await.unwrap();
    let stats = |container_id: &str| StatsRequest { container_id: container_id.into() };
    let figures = pod.agent().stats(stats(&id)).await.unwrap().into_inner();
    assert!(figures.time_nanos > 0 && figures.cpu_usage_nanos > 1_000_000, "{figures:?}");
    assert!(figures.memory_usage_bytes >= 3 << 20, "{figures:?}");
    assert!(figures.memory_working_set_bytes <= figures.memory_usage_bytes, "{figures:?}");
    assert!(figures.memory_rss_bytes > 0 && figures.page_faults > 0, "{figures:?}");
    assert!((1..4).contains(&figures.pids), "{figures:?}");
    assert!((3 << 20..4 << 20).contains(&figures.writable_bytes), "{figures:?}");
    assert!((1..30).contains(&figures.writable_inodes), "{figures:?}");
    assert!(figures.cpu_user_nanos.is_some() && figures.cpu_system_nanos.is_some(), "{figures:?}");
    assert!(figures.memory_max_usage_bytes >= Some(3 << 20), "{figures:?}");
    assert!(figures.memory_cache_bytes >= Some(3 << 20), "{figures:?}");
    assert_eq!((figures.oom_kills, figures.memory_limit_hits), (Some(0), Some(0)), "{figures:?}");
    assert!(figures.processes.is_some_and(|count| (1..=figures.pids).contains(&count)), "{figures:?}");
    assert!(figures.memory_pressure.is_some_and(|pressure| pressure.some.is_some()));
    assert!(figures.writable_filesystem.is_some_and(|fs| fs.bytes > figures.writable_bytes));
    pod.delete(&id).await;

    let created = pod.request(&["true"]);
    let id = created.id.clone();
    pod.create(created).await.unwrap();
    refused(pod.agent().stats(stats(&id)).await, Code::FailedPrecondition, "run");
    pod.delete(&id).await;
}

pub async fn processes(pod: &Pod) {
    let limit = |spec: &mut serde_json::Value| {
        spec["linux"]["resources"]["pids"] = json!({"limit": 10});
        spec["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50000, "period": 100_000});
    };
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; cat /sys/fs/cgroup/pids.max";
    let request = pod.request_with(&["sh", "-c", &format!("cat /sys/fs/cgroup/cpu.max; {script}")], limit);
    let outcome = pod.run(request).await;
    assert!(outcome.stdout.starts_with("50000 100000\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("can't fork"), "{outcome:?}");
}

/// A container makes device nodes, but they open nothing of the guest's.
pub async fn devices(pod: &Pod) {
    let script = "for n in 0 16 32; do mknod /d$n b 254 $n && head -c 1 /d$n; mknod /e$n b 253 $n && head -c 1 /e$n; done
        mknod /kmsg c 1 11 && head -c 1 /kmsg; mknod /mem c 1 1 && head -c 1 /mem
        head -c 4 /dev/urandom | wc -c; echo x >/dev/null && echo null; head -c 2 /dev/zero | wc -c; mknod /n c 1 3 && echo x >/n && echo n";
    let outcome = pod.run_script(script).await;
    assert_eq!(outcome.stdout, "4\nnull\n2\nn\n", "{outcome:?}");
    assert_eq!(outcome.stderr.matches("Operation not permitted").count(), 8, "{outcome:?}");
    // A privileged container opens them.
    let all = |spec: &mut serde_json::Value| {
        spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    };
    let script = "mknod /kmsg c 1 11 && head -c 1 /kmsg | wc -c";
    assert_eq!(pod.run(pod.request_with(&["sh", "-c", script], all)).await.stdout, "1\n");
    // The rules as they stand, for an execd process as well.
    let id = pod.started("sleep 1000").await;
    let outcome = pod.exec_script(&id, "mknod /kmsg c 1 11 && head -c 1 /kmsg").await;
    assert!(outcome.stderr.contains("Operation not permitted"), "{outcome:?}");
    pod.delete(&id).await;
}

pub async fn capabilities(pod: &Pod) {
    let none = |spec: &mut serde_json::Value| {
        spec["process"]["capabilities"] = json!({"bounding": [], "effective": [], "permitted": []});
        spec["process"]["noNewPrivileges"] = json!(true);
    };
    let script = "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; chown 5 /etc/passwd; mount -t tmpfs x /home; kill -9 1";
    let outcome = pod.run(pod.request_with(&["sh", "-c", script], none)).await;
    for part in ["CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(outcome.stdout.contains(part), "{outcome:?}");
    }
    assert!(outcome.stderr.contains("chown: /etc/passwd: Operation not permitted"), "{outcome:?}");
    assert!(outcome.stderr.contains("mount: permission denied"), "{outcome:?}");

    // A filter forbids what it names, for the container and for what is exec'd in it.
    let filter = |spec: &mut serde_json::Value| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
    };
    let id = pod.started_as(pod.request_with(&["sh", "-c", "mkdir /x; sleep 1000"], filter)).await;
    let outcome = pod.exec_script(&id, "mkdir /y; grep Seccomp: /proc/self/status").await;
    assert!(
        outcome.stderr.contains("Not supported") || outcome.stderr.contains("not supported"),
        "{outcome:?}"
    );
    assert!(outcome.stdout.contains("Seccomp:\t2"), "{outcome:?}");
    let (_acks, mut chunks) = pod.stream(&own(&id), 0).await.unwrap();
    let first = String::from_utf8(chunks.message().await.unwrap().unwrap().data).unwrap();
    assert!(first.contains("upported"), "{first}");
    pod.delete(&id).await;
}
