//! More processes in a running container.

use std::time::{Duration, Instant};

use husk_proto::agent::*;
use tonic::Code;

use crate::pod::{Pod, own, refused};

fn of(request: &ExecRequest) -> ProcessId {
    ProcessId { container_id: request.container_id.clone(), exec_id: request.exec_id.clone() }
}

pub async fn runs_in_the_container(pod: &Pod) {
    let mut request =
        pod.request(&["sh", "-c", "echo mine >/tmp-file; chmod 644 /tmp-file; exec /bin/sleep 1000"]);
    request.user = Some(User { name: "0".into(), ..User::default() });
    let id = pod.started_as(request).await;
    let begun = Instant::now();
    let seen = pod
        // The container's own script may still be at its first line.
        .exec_script(&id, "until grep -q ^/bin/sleep /proc/1/cmdline; do sleep 0.05; done; cat /tmp-file; tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/self/cgroup; id -u; echo $A; exit 4")
        .await;
    println!("  an exec to its end took {} ms", begun.elapsed().as_millis());
    assert_eq!(seen.stdout, "mine\n/bin/sleep 1000 \n0::/\n0\n1\n");
    assert_eq!(seen.exit.code, 4);

    let mut with_env = pod.exec_request(
        &id,
        &["sh", "-c", "echo $A $B; grep -h Cap /proc/self/status /proc/1/status | sort | uniq -c | wc -l"],
    );
    with_env.env = vec!["A=2".into(), "B=3".into()];
    pod.exec(with_env.clone()).await.unwrap();
    // Five kinds of sets, the same in both processes.
    assert_eq!(pod.outcome(&of(&with_env)).await.stdout, "2 3\n5\n");
    refused(pod.exec(with_env).await, Code::AlreadyExists, "already");
    pod.delete(&id).await;
}

pub async fn terminal(pod: &Pod) {
    let id = pod.started("sleep 1000").await;
    let mut request =
        pod.exec_request(&id, &["sh", "-c", "stty size; tty; echo $TERM; read x; stty size; exit $x"]);
    request.tty = true;
    request.stdin = true;
    request.size = Some(TerminalSize { rows: 40, columns: 123 });
    pod.exec(request.clone()).await.unwrap();
    let process = of(&request);
    let (_acks, mut chunks) = pod.stream(&process, 0).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("xterm") {
        seen += &String::from_utf8(chunks.message().await.unwrap().unwrap().data).unwrap();
    }
    let resize = |rows, columns| ResizeTerminalRequest {
        process: Some(process.clone()),
        size: Some(TerminalSize { rows, columns }),
    };
    pod.agent().resize_terminal(resize(7, 8)).await.unwrap();
    refused(pod.agent().resize_terminal(resize(70_000, 8)).await, Code::InvalidArgument, "70000");
    pod.write(&process, "9\n", false).await.unwrap();
    let outcome = pod.outcome(&process).await;
    assert_eq!(outcome.stdout, "40 123\r\n/dev/pts/0\r\nxterm\r\n9\r\n7 8\r\n");
    assert_eq!(outcome.exit.code, 9);
    refused(
        pod.agent()
            .resize_terminal(ResizeTerminalRequest {
                process: Some(own(&id)),
                size: Some(TerminalSize { rows: 1, columns: 1 }),
            })
            .await,
        Code::FailedPrecondition,
        "terminal",
    );
    pod.delete(&id).await;
}

pub async fn standard_input(pod: &Pod) {
    let mut request = pod.request(&["sh", "-c", "cat; echo closed"]);
    request.stdin = true;
    let id = pod.started_as(request).await;
    let process = own(&id);
    pod.write(&process, "one ", false).await.unwrap();
    pod.write(&process, "two\n", true).await.unwrap();
    let outcome = pod.outcome(&process).await;
    assert_eq!(outcome.stdout, "one two\nclosed\n");
    refused(pod.write(&process, "three", false).await, Code::FailedPrecondition, "closed");

    // Without stdin there is nothing to write to, and reading gives the end at once.
    let other = pod.started("cat; sleep 1000").await;
    refused(pod.write(&own(&other), "x", false).await, Code::FailedPrecondition, "closed");
    // More than a pipe holds, to one that reads slowly.
    let mut exec = pod.exec_request(&other, &["sh", "-c", "sleep 0.3; wc -c"]);
    exec.stdin = true;
    pod.exec(exec.clone()).await.unwrap();
    pod.write(&of(&exec), &"x".repeat(1 << 20), true).await.unwrap();
    assert_eq!(pod.outcome(&of(&exec)).await.stdout, "1048576\n");
    // One that never reads, and dies.
    let mut deaf = pod.exec_request(&other, &["sleep", "1"]);
    deaf.stdin = true;
    pod.exec(deaf.clone()).await.unwrap();
    refused(pod.write(&of(&deaf), &"x".repeat(1 << 20), true).await, Code::FailedPrecondition, "closed");
    for id in [id, other] {
        pod.delete(&id).await;
    }
}

pub async fn signals(pod: &Pod) {
    let id = pod.started("sleep 1000").await;
    for (signal, code) in [(15, 143), (9, 137), (34, 162)] {
        let request = pod.exec_request(&id, &["sleep", "1000"]);
        pod.exec(request.clone()).await.unwrap();
        let still = DeleteProcessRequest { process: Some(of(&request)) };
        refused(pod.agent().delete_process(still).await, Code::FailedPrecondition, "runs");
        pod.signal(&of(&request), signal).await;
        let exit = pod.wait(&of(&request)).await;
        assert_eq!((exit.code, exit.oom_killed), (code, false));
    }
    // The container's end is the end of all.
    let request = pod.exec_request(&id, &["sleep", "1000"]);
    pod.exec(request.clone()).await.unwrap();
    pod.signal(&own(&id), 9).await;
    assert_eq!(pod.wait(&of(&request)).await.code, 137);
    assert_eq!(pod.wait(&own(&id)).await.code, 137);
    refused(pod.exec(pod.exec_request(&id, &["true"])).await, Code::FailedPrecondition, "not running");
    pod.delete(&id).await;
}

pub async fn missing_command(pod: &Pod) {
    let id = pod.started("sleep 1000").await;
    let missing = pod.exec_request(&id, &["no-such-command"]);
    refused(pod.exec(missing.clone()).await, Code::NotFound, "no-such-command");
    refused(
        pod.exec(pod.exec_request(&id, &["/bin/not-executable"])).await,
        Code::FailedPrecondition,
        "not-executable",
    );
    // The id is free again.
    let again = ExecRequest { args: vec!["true".into()], ..missing };
    pod.exec(again.clone()).await.unwrap();
    assert_eq!(pod.wait(&of(&again)).await.code, 0);
    pod.agent().delete_process(DeleteProcessRequest { process: Some(of(&again)) }).await.unwrap();
    pod.agent().delete_process(DeleteProcessRequest { process: Some(of(&again)) }).await.unwrap();
    pod.delete(&id).await;
}

/// A process that is left behind with the output in its hands delays nobody.
pub async fn left_behind(pod: &Pod) {
    let id = pod.started("sleep 1000").await;
    let begun = Instant::now();
    let outcome = pod.exec_script(&id, "sleep 1000 & echo started").await;
    assert_eq!((outcome.stdout.as_str(), outcome.exit.code), ("started\n", 0));
    assert!(begun.elapsed() < Duration::from_secs(60));
    pod.delete(&id).await;
}

pub async fn many(pod: &Pod) {
    let id = pod.started("sleep 1000").await;
    let scripts: Vec<String> = (0..20).map(|number| format!("echo {number}; exit {number}")).collect();
    let all = scripts.iter().map(|script| pod.exec_script(&id, script));
    for (number, outcome) in futures_util::future::join_all(all).await.into_iter().enumerate() {
        assert_eq!((outcome.stdout, outcome.exit.code), (format!("{number}\n"), number as i32));
    }
    // Orphans of the container are reaped by its own first process or the kernel, none by mistake by another.
    pod.delete(&id).await;
}
