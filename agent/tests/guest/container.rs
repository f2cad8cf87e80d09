//! Containers from creation to deletion, and what they see.

use husk_proto::agent::*;
use serde_json::json;
use tonic::Code;

use crate::pod::{Pod, own, refused};

pub async fn hello(pod: &Pod) {
    let request = pod.request(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    let id = request.id.clone();
    let created = pod.create(request).await.unwrap();
    assert_eq!(created.user, Some(ResolvedUser { uid: 0, gid: 0, groups: vec![0] }));
    let begun = std::time::Instant::now();
    assert!(pod.start(&id).await.unwrap() > 1);
    println!("  a start took {} ms", begun.elapsed().as_millis());
    let outcome = pod.outcome(&own(&id)).await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((outcome.exit.code, outcome.exit.oom_killed), (7, false));
    assert!(outcome.exit.lived_nanos > 0);
    // Once more: nothing is forgotten before the deletion.
    assert_eq!(pod.wait(&own(&id)).await, outcome.exit);
    pod.delete(&id).await;
    pod.delete(&id).await;
    refused(pod.agent().wait(WaitRequest { process: Some(own(&id)) }).await, Code::NotFound, &id);
}

pub async fn what_a_container_sees(pod: &Pod) {
    let script = "echo $$; cat /etc/hostname /etc/resolv.conf; grep pod-one /etc/hosts; hostname; echo $HOME $A $PATH
        cat /proc/self/cgroup; pwd; ls /proc | grep -c '^[0-9]*$'; ls -A /run /tmp 2>&1; stat -f -c %T /dev/shm
        ls /dev; touch /written && echo writable; echo x >/proc/sys/kernel/domainname; ls -l /proc/self/fd
        wc -c </proc/uptime; readlink /proc/1/exe";
    let outcome = pod.run_script(script).await;
    let text = outcome.stdout + &outcome.stderr;
    for part in [
        "1\npod-one\nnameserver 10.9.0.1\nsearch test.local\n",
        "10.9.0.5\tpod-one\n",
        "pod-one\n/root 1 /bin\n0::/\n/\n",
        "tmpfs\n",
        "urandom\n",
        "writable\n",
        "Read-only file system",
        "/dev/null",
        "\n0\n",
        "/bin/busybox",
    ] {
        assert!(text.contains(part), "{part:?} is missing from:\n{text}");
    }
    for secret in ["husk", "vda", "kmsg", "vsock"] {
        assert!(!text.contains(secret), "{secret:?} can be seen:\n{text}");
    }
}

pub async fn users(pod: &Pod) {
    let mut request = pod.request(&["sh", "-c", "id; echo $HOME; echo x >/root-owned"]);
    request.user = Some(User { name: "app".into(), supplemental_groups: vec![77], ..User::default() });
    let id = request.id.clone();
    let user = pod.create(request).await.unwrap().user.unwrap();
    assert_eq!(user, ResolvedUser { uid: 1000, gid: 1000, groups: vec![1000, 77, 33] });
    pod.start(&id).await.unwrap();
    let outcome = pod.outcome(&own(&id)).await;
    assert!(
        outcome.stdout.contains("uid=1000(app) gid=1000(app) groups=33(web),77,1000(app)\n/home/app\n")
            || outcome
                .stdout
                .contains("uid=1000(app) gid=1000(app) groups=1000(app),77,33(web)\n/home/app\n"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("Permission denied"), "{outcome:?}");
    pod.delete(&id).await;

    let mut request = pod.request(&["true"]);
    request.user = Some(User { name: "nobody-knows".into(), ..User::default() });
    let id = request.id.clone();
    refused(pod.create(request.clone()).await, Code::InvalidArgument, "nobody-knows");
    // Nothing of it is left: the same id can be used.
    request.user = None;
    pod.create(request).await.unwrap();
    pod.delete(&id).await;
}

pub async fn working_directory(pod: &Pod) {
    let request = pod.request_with(&["pwd"], |spec| spec["process"]["cwd"] = json!("/made/for/it"));
    assert_eq!(pod.run(request).await.stdout, "/made/for/it\n");
}

pub async fn read_only_root(pod: &Pod) {
    let mut request = pod.request(&[
        "sh",
        "-c",
        "touch /x; touch /etc/x; echo y >/dev/shm/y && cat /dev/shm/y /etc/hostname",
    ]);
    request.rootfs.as_mut().unwrap().read_only = true;
    let outcome = pod.run(request).await;
    assert_eq!(outcome.stdout, "y\npod-one\n");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
}

pub async fn shared_image(pod: &Pod) {
    // Two containers of one image do not see each other's files, and the image is free only after both.
    let one = pod.started("echo one >/bin/mine; sleep 1000").await;
    let two = pod.started("sleep 1000").await;
    let seen = pod.exec_script(&two, "cat /bin/mine; ls /bin | wc -l").await;
    assert!(seen.stderr.contains("No such file"), "{seen:?}");
    pod.delete(&one).await;
    assert_eq!(pod.exec_script(&two, "echo still here").await.stdout, "still here\n");
    pod.delete(&two).await;
    assert_eq!(pod.run_script("cat /bin/mine || echo gone").await.stdout, "gone\n");
}

pub async fn missing_command(pod: &Pod) {
    let request = pod.request(&["no-such-command"]);
    let id = request.id.clone();
    pod.create(request).await.unwrap();
    refused(pod.start(&id).await, Code::NotFound, "no-such-command");
    refused(pod.start(&id).await, Code::FailedPrecondition, &id);
    refused(pod.exec(pod.exec_request(&id, &["true"])).await, Code::FailedPrecondition, "not running");
    let outcome = pod.outcome(&own(&id)).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (127, ""));
    pod.delete(&id).await;
}

pub async fn not_executable(pod: &Pod) {
    for command in ["/bin/not-executable", "/etc", "/bin/not-a-program", "not-executable"] {
        let request = pod.request(&[command]);
        let id = request.id.clone();
        pod.create(request).await.unwrap();
        refused(pod.start(&id).await, Code::FailedPrecondition, command);
        pod.delete(&id).await;
    }
}

pub async fn two_on_localhost(pod: &Pod) {
    let server = pod.started("while true; do echo from the neighbour | nc -l -p 8080; done").await;
    let client =
        pod.run_script("for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 8080 && exit; sleep 0.2; done").await;
    assert_eq!(client.stdout, "from the neighbour\n");
    pod.delete(&server).await;
}

pub async fn lists(pod: &Pod) {
    let created = pod.request(&["true"]);
    let created_id = created.id.clone();
    pod.create(created).await.unwrap();
    let running = pod.started("sleep 1000").await;
    let exited = pod.started("exit 3").await;
    pod.wait(&own(&exited)).await;
    let all = pod.agent().list_containers(ListContainersRequest {}).await.unwrap().into_inner().containers;
    let find = |id: &str| all.iter().find(|container| container.id == id).unwrap();
    assert_eq!(find(&created_id).state(), ProcessState::Created);
    assert_eq!(find(&running).state(), ProcessState::Running);
    assert!(find(&running).pid > 1);
    assert_eq!(find(&exited).state(), ProcessState::Exited);
    assert_eq!(find(&exited).exit.as_ref().unwrap().code, 3);
    for id in [created_id, running, exited] {
        pod.delete(&id).await;
    }
    let all = pod.agent().list_containers(ListContainersRequest {}).await.unwrap().into_inner().containers;
    assert!(all.is_empty(), "{all:?}");
}

pub async fn terminal(pod: &Pod) {
    let mut request =
        pod.request_with(&["sh", "-c", "stty size; tty; read line; echo got $line; stty size"], |spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
        });
    request.stdin = true;
    request.user = Some(User { name: "app".into(), ..User::default() });
    let id = pod.started_as(request).await;
    let size = TerminalSize { rows: 20, columns: 70 };
    // The first size must have been seen before it is changed.
    let (_acks, mut chunks) = pod.stream(&own(&id), 0).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("/dev/") {
        seen.extend(chunks.message().await.unwrap().unwrap().data);
    }
    pod.agent()
        .resize_terminal(ResizeTerminalRequest { process: Some(own(&id)), size: Some(size) })
        .await
        .unwrap();
    pod.write(&own(&id), "hello\n", false).await.unwrap();
    let outcome = pod.outcome(&own(&id)).await;
    assert_eq!(outcome.stdout, "33 99\r\n/dev/pts/0\r\nhello\r\ngot hello\r\n20 70\r\n");
    assert_eq!(outcome.exit.code, 0);
    pod.delete(&id).await;
}

pub async fn signals(pod: &Pod) {
    let id = pod.started("trap 'echo term; exit 5' TERM; echo set; while true; do sleep 0.1; done").await;
    let (_acks, mut chunks) = pod.stream(&own(&id), 0).await.unwrap();
    assert_eq!(chunks.message().await.unwrap().unwrap().data, b"set\n");
    pod.signal(&own(&id), 15).await;
    let outcome = pod.outcome(&own(&id)).await;
    assert_eq!((outcome.stdout.as_str(), outcome.exit.code), ("set\nterm\n", 5));
    // It is gone, which is no error.
    pod.signal(&own(&id), 15).await;
    pod.delete(&id).await;

    for all in [false, true] {
        let id = pod.started("sleep 1000 & sleep 1000").await;
        let request = SignalRequest { process: Some(own(&id)), signal: 9, all };
        pod.agent().signal(request).await.unwrap();
        assert_eq!(pod.wait(&own(&id)).await.code, 137);
        pod.delete(&id).await;
    }
    let id = pod.started("sleep 1000").await;
    for signal in [0, 65, u32::MAX] {
        let request = SignalRequest { process: Some(own(&id)), signal, all: false };
        refused(pod.agent().signal(request).await, Code::InvalidArgument, "signal");
    }
    // Deletion kills.
    pod.delete(&id).await;
}
