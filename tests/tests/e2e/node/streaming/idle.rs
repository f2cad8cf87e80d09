//! Thousands of streams that do nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, container, expect_code, pod, step, wait_for};
use tonic::Code;

use super::ports::connect;
use super::urls::{UPGRADE, request};

/// How many connections the daemon says that it serves.
const SERVED: usize = 512;
/// Streams of one connection, two for each port that is connected to.
const PAIRS: usize = 256;
/// What the daemon may take a while to close.
const PATIENCE: Duration = Duration::from_secs(60);

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("list the daemon's descriptors").count()
}

fn resident_kib(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the daemon's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number")
}

/// URLs that nobody uses, clients that upgrade and say nothing, connections that carry nothing: what is too much is
/// refused with the reason, others are served beside it, and nothing is left of any.
pub async fn idle_streams(bed: Arc<Bed>) {
    let pod = bed.pod(pod("idle")).await;
    let server = pod.start(container("server", "nc -ll -p 9000 -e cat & echo up; sleep 3600")).await;
    server.wait_log("up").await;
    let upgrade = UPGRADE.replace("v4.channel.k8s.io", "portforward.k8s.io");
    let daemon = bed.daemon.pid();
    let (files, memory) = (open_files(daemon), resident_kib(daemon));

    step("URLs until there are too many");
    let mut runtime = bed.client.runtime();
    let wanted = cri::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![9000] };
    let mut urls = Vec::new();
    let refused = loop {
        match runtime.port_forward(wanted.clone()).await {
            Ok(response) => urls.push(response.into_inner().url),
            refused => break refused,
        }
        assert!(urls.len() < 5000, "there is no end of them");
    };
    expect_code(refused, &[Code::ResourceExhausted], &["streaming URLs", "expire"]);
    assert!(urls.len() > SERVED + 1, "only {} URLs", urls.len());

    step(format!("{SERVED} clients that upgrade and say nothing"));
    let mut idle = Vec::new();
    for url in urls.drain(..SERVED) {
        let (status, text, stream) = request(&url, "POST", &upgrade);
        assert_eq!(status, "101", "{text}");
        idle.push(stream);
    }
    let next = urls.pop().expect("there are more");
    let (status, text, _) = request(&next, "POST", &upgrade);
    assert!(status == "503" && text.contains(&format!("{SERVED} connections")), "{text}");
    assert_eq!(server.exec("echo alive").await, "alive\n", "what needs no such connection goes on");
    assert!(idle.iter().all(alive), "those that were served still are");
    step(format!(
        "the daemon has {} KiB more, {} descriptors more",
        resident_kib(daemon).saturating_sub(memory),
        open_files(daemon) - files
    ));

    step("one goes, another comes: its URL is still good");
    idle.pop();
    let _another = wait_for("a place", PATIENCE, || async {
        let (status, _, stream) = request(&next, "POST", &upgrade);
        (status == "101").then_some(stream)
    })
    .await;
    drop(idle);
    for url in urls {
        wait_for("the URL to be used up", PATIENCE, || async {
            let (status, text, _) = request(&url, "GET", "");
            assert!(["400", "503"].contains(&status.as_str()), "{text}");
            (status == "400").then_some(())
        })
        .await;
    }
    let url = runtime.port_forward(wanted).await.expect("there is room for URLs again").into_inner().url;
    assert_eq!(request(&url, "GET", "").0, "400");

    // Over a WebSocket go the same frames, to the same code.
    step("more connections than one client may have");
    let (client, local) = bed.crictl().forward(&pod.id, "spdy", 9000).await;
    let mut carried = Vec::new();
    for number in 0..PAIRS {
        let mut stream = connect(local);
        stream.write_all(b"x").expect("send");
        let echoed = stream.read(&mut [0]).unwrap_or_else(|e| panic!("connection {number}: {e}"));
        assert_eq!(echoed, 1, "connection {number}");
        carried.push(stream);
    }
    let mut refused = connect(local);
    let mut answer = Vec::new();
    let _ = refused.read_to_end(&mut answer);
    assert!(answer.is_empty(), "one more is not carried");
    assert!(carried.iter().all(alive), "the others still are");
    let in_guest = server.exec("netstat -tn | grep -c ':9000.*ESTABLISHED'").await;
    step(format!("{} ends in the guest", in_guest.trim()));

    step("the client is killed");
    drop(client);
    wait_for("the guest's connections to end", PATIENCE, || async {
        let left = server.exec("netstat -tn | grep -c ':9000.*ESTABLISHED'; true").await;
        (left.trim() == "0").then_some(())
    })
    .await;
    wait_for("the daemon to close what it had opened", PATIENCE, || async {
        (open_files(daemon) <= files + 4).then_some(())
    })
    .await;
}

/// Has the other side not closed it?
fn alive(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("make it not wait");
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("make it wait again");
    match seen {
        // What was said and not read is no end.
        Ok(bytes) => bytes > 0,
        Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
    }
}
