//! What listeners are told of pods and containers.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use husk_proto::cri;
use husk_proto::cri::ContainerEventType::{self, *};
use husk_tests::{Bed, container, expect_code, pod, step, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use tokio::time::timeout;
use tonic::{Code, Streaming};

/// How long an event may take after what it tells of.
const LIMIT: Duration = Duration::from_secs(60);

type Events = Streaming<cri::ContainerEventResponse>;

async fn listen(bed: &Bed) -> Events {
    let answer = bed.client.runtime().get_container_events(cri::GetEventsRequest {}).await;
    answer.expect("GetContainerEvents").into_inner()
}

async fn next(events: &mut Events) -> cri::ContainerEventResponse {
    let event = timeout(LIMIT, events.message()).await.expect("an event comes");
    event.expect("the stream goes on").expect("the stream does not end")
}

/// The next event, which must be this one.
async fn expect(events: &mut Events, id: &str, kind: ContainerEventType) -> cri::ContainerEventResponse {
    let event = next(events).await;
    assert_eq!((&event.container_id[..], event.container_event_type()), (id, kind), "{event:?}");
    event
}

fn status<'a>(event: &'a cri::ContainerEventResponse, id: &str) -> Option<&'a cri::ContainerStatus> {
    event.containers_statuses.iter().find(|status| status.id == id)
}

/// Every step of a pod and its containers, in order, with the states of that moment; two listeners hear the same.
pub async fn whole_life(bed: Arc<Bed>) {
    let (mut events, mut other) = (listen(&bed).await, listen(&bed).await);
    let pod = bed.pod(pod("life")).await;
    let mut all = Vec::new();
    let mut heard = async |id: &str, kind| {
        let event = expect(&mut events, id, kind).await;
        all.push(event.clone());
        event
    };
    heard(&pod.id, ContainerCreatedEvent).await;
    let event = heard(&pod.id, ContainerStartedEvent).await;
    let ready = event.pod_sandbox_status.expect("the pod's status");
    assert_eq!(ready.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!((ready.id, ready.metadata), (pod.id.clone(), pod.config.metadata.clone()));
    assert_eq!(ready.network.map(|network| network.ip), Some(pod.ip().await));

    step("a container that ends by itself");
    let exiting = pod.start(container("exiting", "exit 3")).await;
    let id = &exiting.id;
    let event = heard(id, ContainerCreatedEvent).await;
    assert_eq!(status(&event, id).map(|s| s.state()), Some(cri::ContainerState::ContainerCreated));
    let event = heard(id, ContainerStartedEvent).await;
    assert_eq!(status(&event, id).map(|s| s.state()), Some(cri::ContainerState::ContainerRunning));
    let event = heard(id, ContainerStoppedEvent).await;
    let ended = status(&event, id).expect("the container's status");
    assert_eq!((ended.state(), ended.exit_code), (cri::ContainerState::ContainerExited, 3));
    assert!(event.created_at >= ended.finished_at, "{} before {}", event.created_at, ended.finished_at);
    exiting.remove().await;
    let event = heard(id, ContainerDeletedEvent).await;
    assert!(status(&event, id).is_none(), "{event:?}");

    step("one that is killed for want of memory");
    let mut config = container("hungry", "exec tail /dev/zero");
    let limit = cri::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
    config.linux.get_or_insert_default().resources = Some(limit);
    let hungry = pod.start(config).await;
    for kind in [ContainerCreatedEvent, ContainerStartedEvent] {
        heard(&hungry.id, kind).await;
    }
    let event = heard(&hungry.id, ContainerStoppedEvent).await;
    assert_eq!(status(&event, &hungry.id).map(|status| &status.reason[..]), Some("OOMKilled"));

    step("a command that is not there, and a container that is never started");
    let mut config = container("absent", "");
    config.command = vec!["/no/such/command".into()];
    let absent = pod.create(config).await;
    absent.start().await.expect_err("there is no such command");
    heard(&absent.id, ContainerCreatedEvent).await;
    let event = heard(&absent.id, ContainerStoppedEvent).await;
    assert_eq!(status(&event, &absent.id).map(|status| &status.reason[..]), Some("StartError"));
    let idle = pod.create(container("idle", "true")).await;
    heard(&idle.id, ContainerCreatedEvent).await;
    for container in [&hungry, &absent, &idle] {
        container.remove().await;
    }
    heard(&hungry.id, ContainerDeletedEvent).await;
    heard(&absent.id, ContainerDeletedEvent).await;
    heard(&idle.id, ContainerStoppedEvent).await;
    heard(&idle.id, ContainerDeletedEvent).await;

    step("the pod's end");
    let last = pod.start(container("last", "sleep 3600")).await;
    for kind in [ContainerCreatedEvent, ContainerStartedEvent] {
        heard(&last.id, kind).await;
    }
    pod.stop().await;
    pod.stop().await;
    heard(&last.id, ContainerStoppedEvent).await;
    let event = heard(&pod.id, ContainerStoppedEvent).await;
    let state = event.pod_sandbox_status.as_ref().map(|status| status.state());
    assert_eq!(state, Some(cri::PodSandboxState::SandboxNotready));
    assert_eq!(status(&event, &last.id).map(|s| s.state()), Some(cri::ContainerState::ContainerExited));
    pod.remove().await;
    heard(&last.id, ContainerDeletedEvent).await;
    let event = heard(&pod.id, ContainerDeletedEvent).await;
    assert_eq!(event.pod_sandbox_status.map(|status| status.id).as_ref(), Some(&pod.id));
    assert!(event.containers_statuses.is_empty(), "{:?}", event.containers_statuses);

    assert!(all[0].created_at > 1_700_000_000_000_000_000, "these are nanoseconds: {}", all[0].created_at);
    assert!(all.is_sorted_by_key(|event| event.created_at), "an event is older than the one before");
    for event in &all {
        assert_eq!(&next(&mut other).await, event);
    }
}

/// A pod whose VM dies, and one that cannot be made.
pub async fn accidents(bed: Arc<Bed>) {
    let victim = bed.pod(pod("victim")).await;
    let inside = victim.start(container("inside", "sleep 3600")).await;
    let mut events = listen(&bed).await;
    kill(ProcessId::from_raw(victim.vmm().await), Signal::SIGKILL).expect("kill the VMM");
    expect(&mut events, &inside.id, ContainerStoppedEvent).await;
    let event = expect(&mut events, &victim.id, ContainerStoppedEvent).await;
    assert_eq!(status(&event, &inside.id).map(|s| s.state()), Some(cri::ContainerState::ContainerExited));
    victim.remove().await;
    expect(&mut events, &inside.id, ContainerDeletedEvent).await;
    expect(&mut events, &victim.id, ContainerDeletedEvent).await;

    step("no network");
    let hidden = bed.scratch("hidden").join("net.d");
    std::fs::rename(&bed.cni.conf_dir, &hidden).expect("hide the configuration");
    let request = cri::RunPodSandboxRequest { config: Some(pod("unmade")), ..Default::default() };
    let outcome = bed.client.runtime().run_pod_sandbox(request).await;
    std::fs::rename(&hidden, &bed.cni.conf_dir).expect("show the configuration");
    outcome.expect_err("there is no network");
    let made = next(&mut events).await;
    assert_eq!(made.container_event_type(), ContainerCreatedEvent, "{made:?}");
    expect(&mut events, &made.container_id, ContainerDeletedEvent).await;
}

/// Who does not read is cut off with an error, and nothing is lost before that; others hear everything.
pub async fn slow_listener(bed: Arc<Bed>) {
    let mut config = pod("large");
    config.annotations.insert("large".into(), "x".repeat(1 << 20));
    let pod = bed.pod(config).await;
    let (mut slow, mut quick) = (listen(&bed).await, listen(&bed).await);
    let mut told = Vec::new();
    for _ in 0..15 {
        let container = pod.create(container("brief", "true")).await;
        container.remove().await;
        for kind in [ContainerCreatedEvent, ContainerStoppedEvent, ContainerDeletedEvent] {
            told.push(expect(&mut quick, &container.id, kind).await);
        }
    }
    let mut read = 0;
    let refused = loop {
        match slow.message().await {
            Ok(event) => assert_eq!(event.as_ref(), told.get(read)),
            Err(status) => break status,
        }
        read += 1;
    };
    assert!(read > 4 && read < told.len(), "{read} events of {}", told.len());
    expect_code(Err::<(), _>(refused), &[Code::ResourceExhausted], &["ask for events again"]);
}

/// A daemon that is told to end does, whoever listens.
pub async fn daemon_ends(bed: Arc<Bed>) {
    let mut events = listen(&bed).await;
    let pid = bed.daemon.pid();
    kill(ProcessId::from_raw(pid as i32), Signal::SIGTERM).expect("end the daemon");
    let end = timeout(LIMIT, events.message()).await.expect("the stream ends");
    assert_eq!(end.expect("without an error"), None);
    wait_for("the daemon's end", LIMIT, || async {
        // Nobody has waited for it yet: it is a zombie.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.contains(") Z"))
            .then_some(())
    })
    .await;
    bed.daemon.kill();
    bed.daemon.start().await;
    listen(&bed).await;
}

/// crictl events.
pub async fn by_crictl(bed: Arc<Bed>) {
    let pod = bed.pod(pod("crictl")).await;
    let mut crictl = bed.crictl().spawn(&["events"]);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let (mut stdout, sink) = (crictl.stdout.take().expect("a pipe"), shown.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            sink.lock().expect("the buffer").extend_from_slice(&buffer[..length]);
        }
    });
    let text = || {
        let text = String::from_utf8_lossy(&shown.lock().expect("the buffer")).into_owned();
        text.replace(char::is_whitespace, "")
    };
    // It does not say when it listens.
    wait_for("crictl's first event", LIMIT, || async {
        pod.create(container("early", "true")).await.remove().await;
        text().contains("CONTAINER_DELETED_EVENT").then_some(())
    })
    .await;
    let (container, _) = pod.complete(container("shown", "exit 5")).await;
    wait_for("crictl's event of the exit", LIMIT, || async {
        let text = text();
        let shown = |part: &str| text.contains(part);
        (shown(&container.id) && shown("CONTAINER_STOPPED_EVENT") && shown("\"exitCode\":5")).then_some(())
    })
    .await;
    crictl.kill().and_then(|()| crictl.wait()).expect("end crictl");
}
