//! Forwarded connections, open at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use husk_tests::{Bed, Pod, Watched, step};

use crate::calls::Calls;
use crate::gauge::Gauge;
use crate::life;

/// The connections of one client: each is served by a process of its own in the pod.
const OF_A_CLIENT: usize = 50;

/// How long an echo may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Opens connections to echoing servers through the real crictl, keeps them all, and uses each.
pub async fn run(bed: &Bed, connections: usize) -> String {
    let calls = Calls::default();
    let mut pods = Vec::new();
    let mut open = Vec::new();
    let before = Gauge::read(bed);
    let begun = Instant::now();
    while open.len() < connections {
        let (pod, client, port) = server(bed, &calls, "a server", pods.len()).await;
        for _ in 0..OF_A_CLIENT.min(connections - open.len()) {
            let number = open.len();
            let connection = tokio::task::spawn_blocking(move || opened(port, number));
            open.push(
                calls.timed("first echo", "connection", connection).await.expect("the client's thread"),
            );
        }
        pods.push((pod, client));
        step(format!("{} connections are open", open.len()));
    }
    let full = Gauge::read(bed);
    let opening = begun.elapsed();
    step("each is used once more, in another order");
    for (number, stream) in open.iter_mut().enumerate().rev() {
        echo(stream, number);
    }
    drop(open);
    for (pod, client) in pods {
        drop(client);
        life::end(&pod, &calls, "a server").await;
    }
    calls.table(&format!("{connections} forwarded connections at once"))
        + &format!(
            "opened in {:.1} s; {} descriptors and {} KiB of the daemon's before, {} and {} with all of them\n",
            opening.as_secs_f64(),
            before.descriptors,
            before.rss,
            full.descriptors,
            full.rss,
        )
}

/// A pod that echoes, and a client that forwards from the local port to it; its number chooses the transport.
pub async fn server(bed: &Bed, calls: &Calls, phase: &'static str, number: usize) -> (Pod, Watched, u16) {
    let (pod, container) = life::begin(bed, calls, phase, "nc -ll -p 9000 -e cat & echo ready; wait").await;
    container.wait_log("ready").await;
    let transport = if number.is_multiple_of(2) { "spdy" } else { "websocket" };
    let (client, port) = bed.crictl().forward(&pod.id, transport, 9000).await;
    (pod, client, port)
}

/// A connection to a local port that has proved itself.
pub fn opened(port: u16, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to crictl");
    stream.set_read_timeout(Some(LIMIT)).expect("set the limit");
    echo(&mut stream, number);
    stream
}

/// Sends a line of its own, which must come back.
fn echo(stream: &mut TcpStream, number: usize) {
    let line = format!("connection {number:>6}\n");
    stream.write_all(line.as_bytes()).expect("send");
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).unwrap_or_else(|e| panic!("the echo of connection {number}: {e}"));
    assert_eq!(String::from_utf8_lossy(&back), line);
}
