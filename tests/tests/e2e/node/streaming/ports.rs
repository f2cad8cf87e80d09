//! Port-forward.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use husk_tests::{Bed, container, pod, step};
use sha2::{Digest, Sha256};

use super::TRANSPORTS;

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to crictl");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set the limit");
    stream
}

fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = connect(port);
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("send the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read the answer");
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |end| end + 4);
    answer.split_off(body)
}

/// Connections one after the other and beside each other, to servers on the pod's loopbacks.
pub async fn forwarded_ports(bed: Arc<Bed>) {
    let pod = bed.pod(pod("ports")).await;
    let line =
        "mkdir /srv; dd if=/dev/urandom of=/srv/data bs=64k count=30 2>/dev/null; echo small >/srv/small
        nc -ll -p 9000 -e cat & httpd -p '[::1]:8081' -h /srv; httpd -p 127.0.0.1:8080 -h /srv
        sha256sum /srv/data; sleep 3600";
    let server = pod.start(container("server", line)).await;
    server.wait_log("/srv/data").await;
    let hash = server.text().split(' ').next().unwrap_or_default().to_owned();
    for transport in TRANSPORTS {
        step(format!("forward over {transport}"));
        let (client, local) = bed.crictl().forward(&pod.id, transport, 8080).await;
        assert_eq!(get(local, "/small"), b"small\n");
        let many: Vec<_> = (0..6).map(|_| std::thread::spawn(move || get(local, "/data"))).collect();
        for data in many {
            let data = data.join().expect("the reader's thread");
            let seen: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(seen, hash, "{} bytes came", data.len());
        }
        drop(client);

        step("the loopback of IPv6");
        let (_client, local) = bed.crictl().forward(&pod.id, transport, 8081).await;
        assert_eq!(get(local, "/small"), b"small\n");

        step("one side closes, and the other goes on");
        let (_client, local) = bed.crictl().forward(&pod.id, transport, 9000).await;
        let mut stream = connect(local);
        stream.write_all(&[7; 300_000]).expect("send");
        stream.shutdown(std::net::Shutdown::Write).expect("close one side");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("read what comes back");
        assert!(back == [7; 300_000], "{} bytes came back", back.len());
    }
}

/// A port where nobody listens is told, and leaves the pod as it was.
pub async fn refused_port(bed: Arc<Bed>) {
    let pod = bed.pod(pod("ports")).await;
    let container = pod.start(container("idle", "sleep 3600")).await;
    for transport in TRANSPORTS {
        step(format!("a closed port over {transport}"));
        let (client, local) = bed.crictl().forward(&pod.id, transport, 4321).await;
        let mut stream = connect(local);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
        client.wait_print("nobody accepts at port 4321").await;
    }
    assert_eq!(container.exec("echo alive").await, "alive\n");
}
