//! As [`super::crashes`], of what a pod may have besides: volumes, new limits, commands, streams.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, Container, Pod, container, pod, step, wait_for};
use tonic::{Code, Status};

use super::crashes::{Bystander, at_each_point};

/// A pod whose container has volumes of the host: what serves them, and what is mounted for it, is whole or gone, and
/// what is in the volumes is untouched.
pub async fn while_volumes_come_and_go(bed: Arc<Bed>) {
    let host = bed.scratch("volumes");
    fs::create_dir(host.join("data")).expect("make a directory");
    fs::write(host.join("data/note"), "from the host\n").expect("write a file");
    fs::write(host.join("file"), "one file\n").expect("write a file");
    let volume = |name: &str, inside: &str| cri::Mount {
        host_path: host.join(name).display().to_string(),
        container_path: inside.into(),
        ..Default::default()
    };
    let mounts = vec![volume("data", "/data"), volume("file", "/file")];
    let with_volumes =
        |line: &str| cri::ContainerConfig { mounts: mounts.clone(), ..container("volumes", line) };
    let config = bed.with_logs(pod("volumes"));
    let work = async || {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let id = bed.client.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let pod = Pod::found(&bed.client, id.clone(), config.clone());
        let made = pod.try_create(with_volumes("sleep 3600")).await?;
        made.start().await?;
        let request = cri::RemoveContainerRequest { container_id: made.id };
        bed.client.runtime().remove_container(request).await?;
        bed.client
            .runtime()
            .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id })
            .await
            .map(drop)
    };
    let settle = async || {
        for found in bed.client.pods(cri::PodSandboxFilter::default()).await {
            if found.state() == cri::PodSandboxState::SandboxReady {
                let pod = Pod::found(&bed.client, found.id, config.clone());
                let seen = "cat /data/note /file; echo back >/data/back";
                let (seen, status) = pod.complete(with_volumes(seen)).await;
                assert_eq!((status.exit_code, seen.text().as_str()), (0, "from the host\none file\n"));
                assert_eq!(fs::read_to_string(host.join("data/back")).expect("what it wrote"), "back\n");
            }
        }
        bed.clear().await;
        bed.check_clean().expect("nothing is left");
        assert_eq!(fs::read_to_string(host.join("data/note")).expect("the volume"), "from the host\n");
        assert_eq!(fs::read_to_string(host.join("file")).expect("the volume"), "one file\n");
    };
    at_each_point(&bed, 9, &["volume"], work, settle).await;
}

/// Limits of a container and of its pod that change: those hold that are told, before and after.
pub async fn while_resources_change(bed: Arc<Bed>) {
    let pod = bed.pod(pod("resources")).await;
    let bystander = Bystander::start(&pod).await;
    let made = pod.start(container("changing", "sleep 3600")).await;
    let memory =
        |mib: i64| cri::LinuxContainerResources { memory_limit_in_bytes: mib << 20, ..Default::default() };
    let update = async |limits: cri::LinuxContainerResources| {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: made.id.clone(),
            linux: Some(limits),
            ..Default::default()
        };
        bed.client.runtime().update_container_resources(request).await.map(drop)
    };
    let update_pod = async |mib: i64| {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            resources: Some(memory(mib)),
            overhead: None,
        };
        bed.client.runtime().update_pod_sandbox_resources(request).await.map(drop)
    };
    let told = async || {
        let resources = made.status().await.resources.and_then(|resources| resources.linux);
        resources.map_or(0, |linux| linux.memory_limit_in_bytes)
    };
    let work = async || {
        update(memory(400)).await?;
        update_pod(500).await?;
        update(memory(100)).await?;
        update_pod(200).await
    };
    let settle = async || {
        bystander.goes_on().await;
        // What was half done is undone in the background.
        wait_for("the limit that is told", Duration::from_secs(30), || async {
            let told = match told().await {
                0 => "max".to_owned(),
                bytes => bytes.to_string(),
            };
            (made.exec("cat /sys/fs/cgroup/memory.max").await.trim() == told).then_some(())
        })
        .await;
        update(memory(64)).await.expect("UpdateContainerResources once more");
        update_pod(150).await.expect("UpdatePodSandboxResources once more");
        assert_eq!(told().await, 64 << 20);
    };
    at_each_point(&bed, 6, &["limits", "size", "memory", "use what"], work, settle).await;
    bystander.end().await;
}

async fn processes(container: &Container) -> String {
    container.exec("ps").await
}

/// A command in a container that ends, and one that is killed for its time: it ends, by this daemon or the next.
pub async fn while_a_command_runs(bed: Arc<Bed>) {
    let pod = bed.pod(pod("commands")).await;
    let bystander = Bystander::start(&pod).await;
    let work = async || {
        let ended = bystander.container.try_exec(&["sh", "-c", "echo done; exit 7"], 60).await?;
        assert_eq!((ended.exit_code, ended.stdout.as_slice()), (7, &b"done\n"[..]));
        match bystander.container.try_exec(&["sleep", "4321"], 1).await {
            Err(status) if status.code() == Code::DeadlineExceeded => Ok(()),
            Ok(answer) => Err(Status::unknown(format!("it ended: {answer:?}"))),
            Err(status) => Err(status),
        }
    };
    let settle = async || {
        bystander.goes_on().await;
        wait_for("the command's end", Duration::from_secs(30), || async {
            (!processes(&bystander.container).await.contains("sleep 4321")).then_some(())
        })
        .await;
    };
    at_each_point(&bed, 4, &[], work, settle).await;
    bystander.end().await;
}

/// Streams that are open when the daemon is killed end with it, and so do their commands; containers go on and can be
/// attached to again.
pub async fn while_streams_are_open(bed: Arc<Bed>) {
    let pod = bed.pod(pod("streams")).await;
    let config = cri::ContainerConfig {
        stdin: true,
        ..container("reader", "while read line; do echo got $line; done")
    };
    let reader = pod.start(config).await;
    let crictl = bed.crictl();
    let mut clients: Vec<Child> = vec![
        crictl.spawn(&["exec", "-i", &reader.id, "sleep", "4321"]),
        crictl.spawn(&["exec", "-i", "--transport", "websocket", &reader.id, "sleep", "4322"]),
        crictl.spawn(&["attach", "-i", &reader.id]),
        crictl.spawn(&["port-forward", &pod.id, ":80"]),
    ];
    wait_for("the commands", Duration::from_secs(60), || async {
        let all = processes(&reader).await;
        (all.contains("sleep 4321") && all.contains("sleep 4322")).then_some(())
    })
    .await;
    bed.daemon.kill();
    bed.daemon.start().await;
    wait_for("the commands' end", Duration::from_secs(30), || async {
        (!processes(&reader).await.contains("sleep 432")).then_some(())
    })
    .await;
    let clients = RefCell::new(&mut clients);
    wait_for("the clients' end", Duration::from_secs(30), || async {
        // A port's client waits for connections, and learns of the end with the next.
        let mut clients = clients.borrow_mut();
        let ended = |child: &mut Child| child.try_wait().expect("wait for a client").is_some();
        clients.iter_mut().take(3).all(ended).then_some(())
    })
    .await;
    for client in clients.into_inner() {
        let _ = client.kill();
        client.wait().expect("wait for a client");
    }
    step("it is attached to again");
    let mut client = crictl.spawn(&["attach", "-i", &reader.id]);
    client.stdin.as_mut().expect("a pipe").write_all(b"again\n").expect("write to the client");
    reader.wait_log("got again\n").await;
    client.kill().and_then(|()| client.wait()).expect("kill the client");
}

/// A connection to a pod's port ends with the daemon; the server behind it goes on, and is connected to again.
pub async fn while_a_port_is_connected(bed: Arc<Bed>) {
    let pod = bed.pod(pod("port")).await;
    let server = pod.start(container("echo", "echo up; exec nc -ll -p 9000 -e cat")).await;
    server.wait_log("up\n").await;
    let work = async || {
        let (_client, local) = bed.crictl().forward(&pod.id, "spdy", 9000).await;
        let echo = || -> std::io::Result<[u8; 4]> {
            let mut stream = TcpStream::connect(("127.0.0.1", local))?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            stream.write_all(b"echo")?;
            let mut back = [0; 4];
            stream.read_exact(&mut back)?;
            Ok(back)
        };
        let back = echo().map_err(|broken| Status::unavailable(broken.to_string()))?;
        assert_eq!(&back, b"echo");
        Ok(())
    };
    let settle = async || work().await.expect("the port is connected to again");
    at_each_point(&bed, 1, &["port"], work, settle).await;
}
