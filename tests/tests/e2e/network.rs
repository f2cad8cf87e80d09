//! Pods on a CNI network of Debian's plugins.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, container, image, pod, sh, step, wait_for};

/// How long a server in a pod may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(30);

/// A web server of busybox that serves one file with `content`.
fn server(address: &str, content: &str) -> cri::ContainerConfig {
    container("server", &format!("mkdir /www; echo {content} >/www/file; exec httpd -f -p {address} -h /www"))
}

/// GET by the host; None when nobody answers.
fn get(address: &str, path: &str) -> Option<String> {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1") && head.contains(" 200 "), "{head}");
    Some(body.to_owned())
}

async fn wait_get(address: &str, path: &str) -> String {
    wait_for(&format!("HTTP from {address}"), LISTEN_LIMIT, || async { get(address, path) }).await
}

/// A command that prints what a server on `address`:`port` sends, tried until it listens.
///
/// By nc, for Debian's static busybox cannot look names up: its wget crashes on any host.
fn receive(address: &str, port: u16) -> String {
    format!("n=0; until nc {address} {port}; do n=$((n + 1)); [ $n -lt 50 ] || exit 1; sleep 0.2; done")
}

/// A command that prints the body of a web server's file.
fn fetch(address: &str, port: u16) -> String {
    format!("request() {{ printf 'GET /file HTTP/1.0\\r\\n\\r\\n'; }}; n=0
        until request | nc {address} {port} >/tmp/got; do n=$((n + 1)); [ $n -lt 50 ] || exit 1; sleep 0.2; done
        sed '1,/^\r$/d' /tmp/got")
}

/// Two containers of a pod share its network, and nothing else.
pub async fn containers_share_localhost(bed: Arc<Bed>) {
    let pod = bed.pod(pod("localhost")).await;
    let serving = pod.start(server("127.0.0.1:8080", "by-localhost")).await;
    let other =
        pod.start(container("client", &format!("{}; hostname; sleep 3600", fetch("127.0.0.1", 8080)))).await;
    other.wait_log("by-localhost\n").await;
    assert_eq!(serving.exec("hostname").await, other.exec("hostname").await);
    assert_eq!(
        serving.exec("cat /sys/class/net/eth0/address").await,
        other.exec("cat /sys/class/net/eth0/address").await
    );
    assert_eq!(other.exec("ls /www 2>&1 || true").await, "ls: /www: No such file or directory\n");

    step("a port of localhost is not open to others");
    let address = format!("{}:8080", pod.ip().await);
    assert_eq!(get(&address, "/file"), None);
}

/// Pods reach each other and the host, and the host reaches them.
pub async fn pods_reach_each_other_and_the_host(bed: Arc<Bed>) {
    let (first, second) = tokio::join!(bed.pod(pod("first")), bed.pod(pod("second")));
    let (first_ip, second_ip) = (first.ip().await, second.ip().await);
    assert_ne!(first_ip, second_ip);
    first.start(server("8080", "by-first")).await;
    second.start(server("8080", "by-second")).await;

    step("the host to each pod");
    assert_eq!(wait_get(&format!("{first_ip}:8080"), "/file").await, "by-first\n");
    assert_eq!(wait_get(&format!("{second_ip}:8080"), "/file").await, "by-second\n");

    step("each pod to the other");
    assert_eq!(first.output(&fetch(&second_ip, 8080)).await, "by-second\n");
    assert_eq!(second.output(&fetch(&first_ip, 8080)).await, "by-first\n");

    step("a pod to the host, on the bridge and over the default route");
    sh("ip address replace 192.0.2.1/32 dev lo");
    for ip in ["10.88.0.1", "192.0.2.1"] {
        let listener = TcpListener::bind((ip, 0)).expect("listen on the host");
        let port = listener.local_addr().expect("the listener's address").port();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nby-host\n").expect("answer");
        });
        assert_eq!(first.output(&fetch(ip, port)).await, "by-host\n");
        served.join().expect("the host's server");
    }
    sh("ip address del 192.0.2.1/32 dev lo");

    step("the guest's interface is as CNI said");
    let shown = first.output("ip -4 address show eth0; ip route").await;
    assert!(shown.contains(&format!("inet {first_ip}/16")) && shown.contains("mtu 1500"), "{shown}");
    assert!(shown.contains("default via 10.88.0.1 dev eth0"), "{shown}");
    assert!(first.output("ping -c 2 -W 5 10.88.0.1").await.contains("2 packets received"));
}

/// HTTP from the host to a real nginx, by the pod's address and by a port of the host.
pub async fn nginx_and_host_port(bed: Arc<Bed>) {
    bed.client.pull("docker.io/husk/nginx:latest").await.expect("PullImage");
    let mut config = pod("nginx");
    config.port_mappings =
        vec![cri::PortMapping { container_port: 80, host_port: 18080, ..Default::default() }];
    let pod = bed.pod(config).await;
    let mut nginx = container("nginx", "");
    nginx.image = Some(image("docker.io/husk/nginx:latest"));
    nginx.command = Vec::new();
    let nginx = pod.start(nginx).await;
    assert_eq!(wait_get(&format!("{}:80", pod.ip().await), "/").await, "nginx in a pod\n");
    nginx.wait_log("GET / HTTP/1.0").await;
    assert!(nginx.exec("cat /run/nginx.pid").await.trim() == "1");

    step("by the host's port");
    assert_eq!(wait_get("10.88.0.1:18080", "/").await, "nginx in a pod\n");
    assert_eq!(wait_get("127.0.0.1:18080", "/").await, "nginx in a pod\n");

    step("SIGQUIT, nginx's own stop signal, ends it well");
    nginx.stop(30).await;
    let status = nginx.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));

    step("after the pod's end the port is closed");
    pod.stop().await;
    assert_eq!(get("10.88.0.1:18080", "/"), None);
}

/// Hostname, hosts and resolv.conf.
pub async fn names_and_resolver(bed: Arc<Bed>) {
    let mut config = pod("names");
    config.hostname = "a-name-of-its-own".into();
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.96.0.10".into(), "10.96.0.11".into()],
        searches: vec!["test.svc.cluster.local".into(), "cluster.local".into()],
        options: vec!["ndots:5".into(), "edns0".into()],
    });
    let pod = bed.pod(config).await;
    let text =
        pod.output("hostname; cat /etc/hostname; echo $HOSTNAME; cat /etc/resolv.conf; cat /etc/hosts").await;
    let name = "a-name-of-its-own\n";
    assert!(text.starts_with(&[name, name, name].concat()), "{text}");
    let text = &text[3 * name.len()..];
    let mut resolver: Vec<&str> = text.lines().take(4).collect();
    resolver.sort_unstable();
    assert_eq!(
        resolver,
        [
            "nameserver 10.96.0.10",
            "nameserver 10.96.0.11",
            "options ndots:5 edns0",
            "search test.svc.cluster.local cluster.local",
        ]
    );
    assert!(text.lines().any(|line| line.starts_with("127.0.0.1") && line.contains("localhost")), "{text}");
}

/// Offloads and MTU are right: what was sent arrives, bit for bit.
pub async fn much_data_between_pods(bed: Arc<Bed>) {
    let (from, to) = tokio::join!(bed.pod(pod("from")), bed.pod(pod("to")));
    let line = "mkdir /www; dd if=/dev/urandom of=/www/file bs=64k count=128 2>/dev/null; sha256sum </www/file; exec nc -l -p 80 -e cat /www/file";
    let serving = from.start(container("server", line)).await;
    serving.wait_log("-\n").await;
    let got = to.output(&format!("({}) </dev/null | sha256sum", receive(&from.ip().await, 80))).await;
    assert_eq!(got, serving.text());
}
