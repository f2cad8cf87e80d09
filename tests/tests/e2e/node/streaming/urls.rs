//! The streaming server's URLs, and requests that are refused before there is one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, container, expect_code, pod, step};
use tonic::Code;

/// The request for an upgrade to SPDY, as crictl sends it.
pub const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

/// Sends a request to a URL; answers the first line and the rest. The connection is kept with the answer.
pub fn request(url: &str, method: &str, headers: &str) -> (String, String, TcpStream) {
    let (host, path) =
        url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("an http URL");
    assert!(host.starts_with("127.0.0.1:"), "it is served on loopback: {url}");
    let mut stream = TcpStream::connect(host).expect("connect to the streaming server");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set the limit");
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").expect("send the request");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read the answer") > 0 {
        answer.push(byte[0]);
    }
    let mut text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    if status != "101" {
        let _ = stream.read_to_string(&mut text);
    }
    (status, text, stream)
}

/// A URL is good once, for its own request alone; others lead nowhere.
pub async fn urls(bed: Arc<Bed>) {
    let pod = bed.pod(pod("urls")).await;
    let container = pod.start(container("urls", "sleep 3600")).await;
    let exec = || async {
        let request = cri::ExecRequest {
            container_id: container.id.clone(),
            cmd: vec!["sleep".into(), "5432".into()],
            stdout: true,
            ..Default::default()
        };
        bed.client.runtime().exec(request).await.expect("Exec").into_inner().url
    };
    let url = exec().await;
    let token = url.rsplit('/').next().unwrap_or_default().to_owned();
    assert!(token.len() >= 32 && url.contains("/exec/"), "{url}");
    assert_ne!(exec().await, url);

    step("used once, and again");
    let (status, text, _stream) = request(&url, "POST", UPGRADE);
    assert_eq!(status, "101", "{text}");
    assert!(text.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{text}");
    let (status, text, _) = request(&url, "POST", UPGRADE);
    assert!(status == "410" && text.contains("used already"), "{text}");

    step("guessed, of another request, cut");
    for wrong in [
        url.replace(&token, &"0".repeat(64)),
        exec().await.replace("/exec/", "/attach/"),
        url.replace(&token, ""),
        url.replace(&token, &token[..10]),
        url.replace("/exec/", "/../../etc/passwd/"),
    ] {
        let (status, text, _) = request(&wrong, "GET", UPGRADE);
        assert!(status == "404" && text.contains("no such"), "{wrong}: {text}");
    }

    step("no upgrade, an unknown protocol, another method");
    let (status, text, _) = request(&exec().await, "GET", "");
    assert!(status == "400" && text.contains("upgrade"), "{text}");
    let (status, text, _) = request(&exec().await, "GET", &UPGRADE.replace("v4", "v9"));
    assert!(status == "400" && text.contains("v9.channel.k8s.io"), "{text}");
    let (status, _, _) = request(&exec().await, "DELETE", UPGRADE);
    assert_eq!(status, "405");

    step("a client that upgrades and sends garbage, or nothing");
    let (status, _, mut stream) = request(&exec().await, "POST", UPGRADE);
    assert_eq!(status, "101");
    stream.write_all(b"\xff\xff\xff\xff\xff\xff\xff\xff garbage that is no frame").expect("send garbage");
    // A farewell, and the end.
    stream.read_to_end(&mut Vec::new()).expect("the connection ends");
    assert!(!container.exec("ps").await.contains("5432"), "without its streams no command is started");
    let (status, _, idle) = request(&exec().await, "POST", UPGRADE);
    assert_eq!(status, "101");
    drop(idle);
    assert_eq!(container.exec("echo alive").await, "alive\n");
}

/// What cannot be done gets no URL.
pub async fn wrong_requests(bed: Arc<Bed>) {
    let pod = bed.pod(pod("urls")).await;
    let running = pod.start(container("urls", "sleep 3600")).await;
    let (exited, _) = pod.complete(container("exited", "true")).await;
    let mut runtime = bed.client.runtime();
    let exec = |id: &str| cri::ExecRequest {
        container_id: id.into(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let attach =
        |id: &str| cri::AttachRequest { container_id: id.into(), stdout: true, ..Default::default() };
    for (id, code) in
        [("", Code::NotFound), ("nowhere", Code::NotFound), (exited.id.as_str(), Code::FailedPrecondition)]
    {
        expect_code(runtime.exec(exec(id)).await, &[code], &[id]);
        expect_code(runtime.attach(attach(id)).await, &[code], &[id]);
    }
    let both = cri::ExecRequest { tty: true, stderr: true, ..exec(&running.id) };
    expect_code(runtime.exec(both).await, &[Code::InvalidArgument], &["tty", "stderr"]);
    let none = cri::ExecRequest { stdout: false, ..exec(&running.id) };
    expect_code(runtime.exec(none).await, &[Code::InvalidArgument], &["stdin"]);
    let empty = cri::ExecRequest { cmd: Vec::new(), ..exec(&running.id) };
    expect_code(runtime.exec(empty).await, &[Code::InvalidArgument], &["command"]);
    let none = cri::AttachRequest { stdout: false, ..attach(&running.id) };
    expect_code(runtime.attach(none).await, &[Code::InvalidArgument], &["stdin"]);

    let ports = |id: &str, port| cri::PortForwardRequest { pod_sandbox_id: id.into(), port: vec![port] };
    expect_code(runtime.port_forward(ports("nowhere", 80)).await, &[Code::NotFound], &["nowhere"]);
    for port in [0, -1, 65536] {
        let refused = runtime.port_forward(ports(&pod.id, port)).await;
        expect_code(refused, &[Code::InvalidArgument], &[&port.to_string()]);
    }
    pod.stop().await;
    let refused = runtime.port_forward(ports(&pod.id, 80)).await;
    expect_code(refused, &[Code::FailedPrecondition], &[&pod.id]);
}
