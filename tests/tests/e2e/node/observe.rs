//! What a daemon is watched by: metrics, traces, log lines. Each test ends with a daemon that tells nothing but its log.

use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, Pod, container, expect_code, image, pod, step, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use super::scrape::{self, address, ask, calls, scrape};

/// How long something may take to be told.
const LIMIT: Duration = Duration::from_secs(20);

/// An image that the other tests of this module do without.
const NGINX: &str = "docker.io/husk/nginx:latest";

/// What a pod's secret is in its tests.
const SECRET: &str = "correct horse battery staple";

/// A pod's whole life, a refused call and a dead VM are counted, each once, and nothing of them is named.
pub async fn metrics(bed: Arc<Bed>) {
    bed.daemon.restart_with("", scrape::SERVED).await;
    let address = address(&bed.daemon.log());
    let (_, before) = scrape(&address);
    assert_eq!(before["husk_sandboxes{state=\"ready\"}"], 0.0);
    assert!(!before.contains_key(&calls("RunPodSandbox", "OK")), "{before:?}");

    let pod = bed.pod(pod("counted")).await;
    let inside = pod.start(container("counted", "sleep 3600")).await;
    inside.exec("true").await;
    let (_, during) = scrape(&address);
    assert_eq!(during["husk_sandboxes{state=\"ready\"}"], 1.0);
    assert_eq!(during["husk_containers{state=\"running\"}"], 1.0);

    let unknown = cri::PodSandboxStatusRequest { pod_sandbox_id: "f".repeat(64), verbose: false };
    let refused = bed.client.runtime().pod_sandbox_status(unknown).await;
    expect_code(refused, &[Code::NotFound], &["ffff"]);
    bed.client.pull(BUSYBOX).await.expect("PullImage");
    bed.client.pull("docker.io/husk/none:latest").await.expect_err("it is not there");
    kill(ProcessId::from_raw(pod.vmm().await), Signal::SIGKILL).expect("kill the VMM");
    wait_for("the pod to be not ready", LIMIT, || async {
        (pod.status().await.state() == cri::PodSandboxState::SandboxNotready).then_some(())
    })
    .await;
    pod.stop().await;
    pod.remove().await;

    // A call is counted when its answer is on its way, which may be a moment after it has come.
    let removed = calls("RemovePodSandbox", "OK");
    let (text, after) = wait_for("the last call to be counted", LIMIT, || async {
        Some(scrape(&address)).filter(|(_, figures)| figures.contains_key(&removed))
    })
    .await;
    for (series, wanted) in [
        (calls("RunPodSandbox", "OK"), 1.0),
        (calls("CreateContainer", "OK"), 1.0),
        (calls("StartContainer", "OK"), 1.0),
        (calls("ExecSync", "OK"), 1.0),
        (calls("PodSandboxStatus", "NOT_FOUND"), 1.0),
        (calls("PullImage", "OK"), 1.0),
        (calls("PullImage", "NOT_FOUND"), 1.0),
        (calls("StopPodSandbox", "OK"), 1.0),
        (removed, 1.0),
        ("husk_cri_call_duration_seconds_count{method=\"ExecSync\"}".into(), 1.0),
        ("husk_cri_call_duration_seconds_bucket{method=\"ExecSync\",le=\"+Inf\"}".into(), 1.0),
        ("husk_sandbox_start_step_duration_seconds_count{step=\"network\"}".into(), 1.0),
        ("husk_sandbox_start_step_duration_seconds_count{step=\"configure\"}".into(), 1.0),
        ("husk_image_pulls_total{outcome=\"success\"}".into(), 1.0),
        ("husk_image_pulls_total{outcome=\"failure\"}".into(), 1.0),
        ("husk_image_pulls_running".into(), 0.0),
        ("husk_vm_ends_total{reason=\"signal\"}".into(), 1.0),
        ("husk_sandboxes{state=\"ready\"}".into(), 0.0),
        ("husk_containers{state=\"running\"}".into(), 0.0),
    ] {
        assert_eq!(after.get(&series), Some(&wanted), "{series} in:\n{text}");
    }
    let started = |step: &str| {
        let series = format!("husk_sandbox_start_step_duration_seconds_count{{step=\"{step}\"}}");
        after.get(&series).copied().unwrap_or_default()
    };
    assert_eq!(started("boot") + started("clone"), 1.0, "{text}");
    let took = after["husk_cri_call_duration_seconds_sum{method=\"RunPodSandbox\"}"];
    assert!(took > 0.0 && took < 120.0, "{took} s");
    assert!(after["process_open_fds"] > 5.0 && after["process_resident_memory_bytes"] > 1e6, "{text}");
    let name = pod.config.metadata.clone().unwrap_or_default().name;
    for named in [&pod.id, &inside.id, &name, "busybox", "ffff"] {
        assert!(!text.contains(named), "{named:?} is told in:\n{text}");
    }

    step("what is not served");
    for (request, status) in [("GET /", "404"), ("GET /metrics/", "404"), ("POST /metrics", "405")] {
        let answer = ask(&address, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && !answer.contains("husk_cri"),
            "{answer}"
        );
    }
    bed.daemon.restart_with("", "").await;
    assert!(TcpStream::connect(&address).is_err(), "it is served without being configured");
}

/// A collector of OTLP.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|spans| spans.scope_spans);
        self.0.lock().expect("the spans").extend(scopes.flat_map(|spans| spans.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Takes spans; answers the configuration of a daemon that sends them.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address");
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        format!("[tracing]\nendpoint = \"http://{address}\"\n")
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().expect("the spans").clone()
    }
}

/// The only span of a name.
fn span<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [only] = found.as_slice() else { panic!("{} spans {name:?} in {spans:#?}", found.len()) };
    only
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Attribute::StringValue(value)) => value,
        other => panic!("{key} is {other:?} in {span:#?}"),
    }
}

/// A call with the metadata that a caller who traces sends.
fn traced<T>(message: T, parent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header's value"));
    request
}

/// Calls are children of their callers' spans, and have their steps; what is a pod's own is not in them.
pub async fn traces(bed: Arc<Bed>) {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let collector = Collector::default();
    bed.daemon.restart_with("", &collector.start().await).await;

    let config = bed.with_logs(pod("traced"));
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let mut runtime = bed.client.runtime();
    let answer = match runtime.run_pod_sandbox(traced(request.clone(), &sampled)).await {
        // Emulated KVM loses a guest now and then.
        Err(_) if std::env::var_os("HUSK_TESTBED_EMULATED").is_some() => {
            wait_for("the spans of a lost pod", LIMIT, || async {
                (!collector.spans().is_empty()).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            collector.0.lock().expect("the spans").clear();
            runtime.run_pod_sandbox(traced(request, &sampled)).await
        }
        answer => answer,
    };
    let pod = Pod::found(&bed.client, answer.expect("RunPodSandbox").into_inner().pod_sandbox_id, config);
    let mut secretive = container("traced", &format!("echo {SECRET:?} >&2; sleep 3600"));
    secretive.envs.push(cri::KeyValue { key: "PASSWORD".into(), value: SECRET.into() });
    let inside = pod.start(secretive).await;
    inside.exec(&format!(": {SECRET:?}")).await;
    let unknown = cri::PodSandboxStatusRequest { pod_sandbox_id: "f".repeat(64), verbose: false };
    runtime.pod_sandbox_status(unknown).await.expect_err("it is not known");
    let not_sampled = traced(cri::ListContainersRequest::default(), &format!("00-{TRACE}-{PARENT}-00"));
    runtime.list_containers(not_sampled).await.expect("ListContainers");
    let remove = cri::RemoveImageRequest { image: Some(image(NGINX)) };
    bed.client.images().remove_image(remove).await.expect("RemoveImage");
    let auth = cri::AuthConfig { username: "somebody".into(), password: SECRET.into(), ..Default::default() };
    let pull = cri::PullImageRequest { image: Some(image(NGINX)), auth: Some(auth), ..Default::default() };
    bed.client.images().pull_image(pull).await.expect("PullImage");
    pod.stop().await;
    pod.remove().await;

    step("what is left is sent when the daemon ends");
    bed.daemon.terminate().await;
    let spans = collector.spans();
    let run = span(&spans, "runtime.v1.RuntimeService/RunPodSandbox");
    assert_eq!((hex(&run.trace_id), hex(&run.parent_span_id)), (TRACE.into(), PARENT.into()), "{run:#?}");
    assert_eq!((attribute(run, "sandbox"), attribute(run, "code")), (pod.id.as_str(), "OK"));
    let vm = if spans.iter().any(|span| span.name == "clone") { "clone" } else { "boot" };
    for name in ["network", vm, "configure"] {
        let step = span(&spans, name);
        assert_eq!((&step.parent_span_id, &step.trace_id), (&run.span_id, &run.trace_id), "{step:#?}");
        let within = step.start_time_unix_nano >= run.start_time_unix_nano;
        assert!(within && step.end_time_unix_nano <= run.end_time_unix_nano, "{step:#?} in {run:#?}");
    }
    let create = span(&spans, "runtime.v1.RuntimeService/CreateContainer");
    assert_eq!((attribute(create, "sandbox"), attribute(create, "container")), (&pod.id[..], &inside.id[..]));
    assert!(create.parent_span_id.is_empty(), "nobody has called it within a trace: {create:#?}");
    assert_eq!(span(&spans, "create in the guest").parent_span_id, create.span_id);
    let start = span(&spans, "runtime.v1.RuntimeService/StartContainer");
    assert_eq!(attribute(start, "container"), inside.id);
    let stop = span(&spans, "runtime.v1.RuntimeService/StopPodSandbox");
    let of_stop = |span: &Span| span.name == "release the network" && span.parent_span_id == stop.span_id;
    assert!(spans.iter().any(of_stop), "{spans:#?}");
    let refused: Vec<_> = spans.iter().filter(|span| span.name.ends_with("/PodSandboxStatus")).collect();
    assert!(refused.iter().any(|span| attribute(span, "code") == "NOT_FOUND"), "{refused:#?}");
    let pull = span(&spans, "runtime.v1.ImageService/PullImage");
    for name in ["resolve", "layer", "merge"] {
        let of_pull = |span: &&Span| span.name == name && span.parent_span_id == pull.span_id;
        assert!(spans.iter().any(|span| of_pull(&span)), "no {name} of the pull in {spans:#?}");
    }
    assert!(!spans.iter().any(|span| span.name.ends_with("/ListContainers")), "its caller did not want it");
    let all = format!("{spans:?}");
    for secret in [SECRET, "PASSWORD", "sleep 3600", "somebody"] {
        assert!(!all.contains(secret), "{secret:?} is in the spans");
    }
    bed.daemon.start().await;
    bed.daemon.restart_with("", "").await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector that is not there, and one that takes connections and says nothing, hold up neither calls nor the end.
pub async fn collector_away(bed: Arc<Bed>) {
    // Its connections wait in the kernel's queue for ever.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let mute_address = mute.local_addr().expect("an address").to_string();
    // A refusal is noticed with the first spans; of a mute collector's, more are made than are kept.
    for (address, calls) in [("127.0.0.1:1", 700), (mute_address.as_str(), 2700)] {
        let tables = format!("[tracing]\nendpoint = \"http://{address}\"\n");
        bed.daemon.restart_with("", &tables).await;
        let pod = bed.pod(pod("untraced")).await;
        for _ in 0..calls {
            bed.client.runtime().version(cri::VersionRequest::default()).await.expect("Version");
        }
        pod.stop().await;
        pod.remove().await;
        let told = format!("endpoint=http://{address}");
        let said =
            |log: &str| log.lines().filter(|line| line.contains(&told) && line.contains("lost")).count();
        wait_for("the log to tell", LIMIT, || async { (said(&bed.daemon.log()) > 0).then_some(()) }).await;
        let took = bed.daemon.terminate().await;
        assert!(took < Duration::from_secs(30), "{took:?} with {address}");
        assert_eq!(said(&bed.daemon.log()), 1, "{}", bed.daemon.log_tail());
        bed.daemon.start().await;
    }
    bed.daemon.restart_with("", "").await;
}

/// Every line is an object, and those of a pod or container say which.
pub async fn json_lines(bed: Arc<Bed>) {
    bed.daemon.kill();
    let begin = bed.daemon.log().len();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" --log-format json \"$@\""]);
    bed.daemon.start_under(shell).await;
    let lines = || -> Vec<Value> {
        let log = bed.daemon.log();
        // The last may not be whole yet.
        let whole = &log[begin..=log.rfind('\n').expect("a line").max(begin)];
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(parse).collect()
    };
    let pod = bed.pod(pod("told")).await;
    let inside = pod.start(container("told", "sleep 3600")).await;
    kill(ProcessId::from_raw(pod.vmm().await), Signal::SIGKILL).expect("kill the VMM");
    inside.wait().await;
    let about = |key: &'static str, id: &str| {
        let id = id.to_owned();
        wait_for("lines about it", LIMIT, move || {
            let found: Vec<Value> = lines().into_iter().filter(|line| line[key] == *id).collect();
            async move { (!found.is_empty()).then_some(found) }
        })
    };
    for line in about("container", &inside.id).await {
        assert_eq!(line["sandbox"], *pod.id, "{line}");
    }
    let of_pod = about("sandbox", &pod.id).await;
    let ready = of_pod.iter().find(|line| line["message"] == "pod is ready").expect("the pod is told of");
    assert_eq!((&ready["method"], &ready["level"]), (&"RunPodSandbox".into(), &"INFO".into()), "{ready}");
    assert!(ready["boot_ms"].is_u64() && ready["cloned"].is_boolean(), "{ready}");
    let time = ready["timestamp"].as_str().expect("a time");
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    let ended = |line: &&Value| line["level"] == "WARN" && line["message"].to_string().contains("signal 9");
    assert!(of_pod.iter().any(|line| ended(&line)), "{of_pod:#?}");
    pod.stop().await;
    pod.remove().await;
    bed.daemon.kill();
    bed.daemon.start().await;
}
