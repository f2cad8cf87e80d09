//! ExecSync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_tests::{Bed, container, expect_code, pod, step};
use tonic::Code;

/// Streams apart, exit codes, the container's own world.
pub async fn output_and_exit_codes(bed: Arc<Bed>) {
    let pod = bed.pod(pod("exec")).await;
    let mut config = container("exec", "echo $$ >/tmp/main; sleep 3600");
    config.envs = vec![husk_proto::cri::KeyValue { key: "GIVEN".into(), value: "value".into() }];
    config.working_dir = "/tmp".into();
    let container = pod.start(config).await;

    let answer =
        container.try_exec(&["sh", "-c", "echo out; echo err >&2; exit 42"], 10).await.expect("ExecSync");
    assert_eq!((answer.stdout.as_slice(), answer.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(answer.exit_code, 42);
    assert_eq!(container.exec("echo $GIVEN; pwd; cat /tmp/main").await, "value\n/tmp\n1\n");

    step("a command that is killed");
    let answer = container.try_exec(&["sh", "-c", "kill -KILL $$"], 0).await.expect("ExecSync");
    assert_eq!(answer.exit_code, 137);

    step("two megabytes");
    let answer = container
        .try_exec(&["sh", "-c", "dd if=/dev/zero bs=10000 count=200 2>/dev/null | tr '\\0' x"], 0)
        .await
        .expect("ExecSync");
    assert_eq!(answer.stdout.len(), 2_000_000);
    assert!(answer.stdout.iter().all(|byte| *byte == b'x'));

    step("a command that is not there");
    let refused = container.try_exec(&["no-such-command"], 0).await;
    expect_code(refused, &[Code::FailedPrecondition, Code::InvalidArgument], &["no-such-command"]);
    expect_code(container.try_exec(&[], 0).await, &[Code::InvalidArgument], &["command"]);

    step("ten at once");
    let calls = (0..10).map(|n| {
        let container = container.clone();
        tokio::spawn(async move { container.exec(&format!("sleep 0.2; echo {n}")).await })
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(call.await.expect("the task"), format!("{n}\n"));
    }
}

/// What does not end in time is killed.
pub async fn timeout_kills(bed: Arc<Bed>) {
    let pod = bed.pod(pod("timeout")).await;
    let container = pod.start(container("timeout", "sleep 3600")).await;
    let begun = Instant::now();
    let outcome = container.try_exec(&["sleep", "9876"], 2).await;
    expect_code(outcome, &[Code::DeadlineExceeded], &["2 s"]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "answered after {took:?}");
    let processes = container.exec("ps").await;
    assert!(!processes.contains("9876"), "it is still there:\n{processes}");
    assert!(processes.contains("sleep 3600"), "the container's own process is gone:\n{processes}");
}

/// In an exited container there is nothing to run in.
pub async fn only_where_a_container_runs(bed: Arc<Bed>) {
    let pod = bed.pod(pod("exited")).await;
    let (container, _) = pod.complete(container("exited", "true")).await;
    expect_code(container.try_exec(&["true"], 0).await, &[Code::FailedPrecondition], &[&container.id]);
}
