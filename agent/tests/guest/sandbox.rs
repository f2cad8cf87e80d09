//! Version, ConfigureSandbox.

use std::time::{SystemTime, UNIX_EPOCH};

use husk_proto::agent::*;
use tonic::Code;

use crate::pod::{Pod, refused};
use crate::vm::{MACS, SCRATCH};

pub async fn version(pod: &Pod) {
    let answer = pod.agent().version(VersionRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(answer.kernel_version.contains("husk"), "{}", answer.kernel_version);
}

pub async fn nothing_before_the_configuration(pod: &Pod) {
    refused(pod.create(pod.request(&["true"])).await, Code::FailedPrecondition, "ConfigureSandbox");
}

/// The names are the other way round than the kernel's.
fn request() -> ConfigureSandboxRequest {
    let interface = |name: &str, mac: &str, mtu, addresses: &[&str]| Interface {
        name: name.into(),
        mac: mac.into(),
        mtu,
        addresses: crate::pod::strings(addresses),
    };
    let route = |destination: &str, gateway: &str, interface: &str| Route {
        destination: destination.into(),
        gateway: gateway.into(),
        interface: interface.into(),
    };
    ConfigureSandboxRequest {
        hostname: "pod-one".into(),
        resolv_conf: "nameserver 10.9.0.1\nsearch test.local\n".into(),
        interfaces: vec![
            interface("eth1", MACS[0], 1400, &["10.9.0.5/24", "fd00:9::5/64"]),
            interface("eth0", MACS[1], 0, &["10.10.0.5/32"]),
        ],
        routes: vec![
            route("0.0.0.0/0", "169.254.1.1", "eth0"),
            route("169.254.1.1/32", "", "eth0"),
            route("::/0", "fd00:9::1", "eth1"),
        ],
        sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        time_nanos: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64,
        entropy: vec![7; 64],
        scratch_serial: SCRATCH.into(),
    }
}

pub async fn wrong_configurations(pod: &Pod) {
    let configure = async |change: fn(&mut ConfigureSandboxRequest)| {
        let mut request = request();
        change(&mut request);
        pod.agent().configure_sandbox(request).await
    };
    let invalid = Code::InvalidArgument;
    refused(configure(|r| r.hostname = "a\nb".into()).await, invalid, "hostname");
    refused(configure(|r| r.interfaces[0].mac = "02:00".into()).await, invalid, "02:00");
    refused(configure(|r| r.interfaces[0].addresses[0] = "10.9.0.5".into()).await, invalid, "10.9.0.5");
    refused(configure(|r| r.routes[0].gateway = "fd00::1".into()).await, invalid, "families");
    refused(configure(|r| r.routes[0].interface = "eth7".into()).await, invalid, "eth7");
    refused(configure(|r| r.time_nanos = -5).await, invalid, "-5");
    let core_pattern =
        configure(|r| drop(r.sysctls.insert("kernel.core_pattern".into(), "|/x".into()))).await;
    refused(core_pattern, invalid, "core_pattern");
    let one_too_many = |r: &mut ConfigureSandboxRequest| {
        let (name, mac) = ("eth2".into(), "02:00:00:00:00:99".into());
        let more = Interface { name, mac, addresses: Vec::new(), ..r.interfaces[0].clone() };
        r.interfaces.push(more);
    };
    let stranger = configure(one_too_many).await;
    refused(stranger, Code::NotFound, "02:00:00:00:00:99");
    refused(configure(|r| r.scratch_serial = "nothing".into()).await, Code::NotFound, "nothing");
}

pub async fn configuration(pod: &Pod) {
    let first = request();
    pod.agent().configure_sandbox(first.clone()).await.unwrap();
    pod.agent().configure_sandbox(ConfigureSandboxRequest { time_nanos: 0, ..first.clone() }).await.unwrap();
    let other = ConfigureSandboxRequest { hostname: "other".into(), ..first };
    refused(pod.agent().configure_sandbox(other).await, Code::FailedPrecondition, "already");

    let seen =
        pod.run_script("ip addr; ip route; ip -6 route; cat /proc/sys/net/ipv4/ip_forward; date +%s").await;
    let text = &seen.stdout;
    for part in [
        "eth1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400",
        "10.9.0.5/24",
        "fd00:9::5/64 scope global",
        "eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500",
        "10.10.0.5/32",
        "lo: <LOOPBACK,UP,LOWER_UP>",
        "default via 169.254.1.1 dev eth0",
        "default via fd00:9::1 dev eth1",
        MACS[0],
    ] {
        assert!(text.contains(part), "{part:?} is missing from:\n{text}");
    }
    assert!(!text.contains("tentative"), "addresses can be used at once:\n{text}");
    let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(numbers[0] == 1 && now.abs_diff(numbers[1]) < 30, "{numbers:?}");
}
