//! Pod networks for real: Debian's CNI plugins, in network and mount namespaces of the test's own, so that
//! the host is not touched.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// `struct virtio_net_hdr` without mergeable buffers, which a tap has unless it is told otherwise.
const VNET_HEADER: usize = 10;

const BRIDGE_IP: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 1);

/// Runs `test` on a thread with its own network and mount namespaces.
fn isolated<F: Future<Output = ()>>(test: impl FnOnce(PodNetwork, PathBuf) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let network = PodNetwork::new(NetworkConfig {
            conf_dir: dir.path().join("net.d"),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: dir.path().join("cache"),
            netns_dir: dir.path().join("netns"),
            timeout: Duration::from_secs(60),
        });
        fs::create_dir(dir.path().join("net.d")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(network, dir.path().to_owned()));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn configure(dir: &Path, plugins: serde_json::Value) {
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "husk-test", "plugins": plugins});
    fs::write(dir.join("net.d/10-test.conflist"), list.to_string()).unwrap();
}

/// bridge, host-local and portmap, as a node would have them.
fn bridge(dir: &Path) -> serde_json::Value {
    serde_json::json!([
        {"type": "bridge", "bridge": "husktest0", "isGateway": true, "mtu": 1400,
         "ipam": {"type": "host-local", "dataDir": dir.join("leases"),
                  "ranges": [[{"subnet": "10.231.0.0/24"}], [{"subnet": "fd00:231::/64"}]],
                  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
    ])
}

fn request(id: &str) -> PodNetworkRequest {
    let web = PortMapping { host_port: 18080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    PodNetworkRequest {
        sandbox_id: id.to_owned(),
        name: "web".to_owned(),
        namespace: "default".to_owned(),
        uid: "u-1".to_owned(),
        port_mappings: vec![web],
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a pod could leave behind.
fn leftovers(dir: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in output("ip", &["-o", "link"]).lines().filter(|line| line.contains("veth")) {
        all.insert(line.to_owned());
    }
    // portmap's chains of its own stay; those of a pod are DN-<hash>.
    all.extend(output("iptables-save", &[]).lines().filter(|line| line.contains("DN-")).map(str::to_owned));
    for inside in ["netns", "cache", "leases/husk-test"] {
        let Ok(entries) = fs::read_dir(dir.join(inside)) else { continue };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // host-local keeps its lock and the address that it gave last.
        all.extend(names.filter(|name| name != "lock" && !name.starts_with("last_reserved_ip")));
    }
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    all.extend(mounts.lines().filter(|line| line.contains(dir.to_str().unwrap())).map(str::to_owned));
    all
}

/// The guest's end of an interface, spoken to by hand.
struct Guest {
    tap: File,
    mac: [u8; 6],
    ip: Ipv4Addr,
}

impl Guest {
    fn new(setup: PodNetworkSetup) -> Self {
        let interface = setup.interfaces.into_iter().next().unwrap();
        let tap = interface.taps.into_iter().next().unwrap().into();
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(interface.mac.split(':')) {
            *to = u8::from_str_radix(from, 16).unwrap();
        }
        let IpAddr::V4(ip) = setup.ips[0] else { panic!("{:?}", setup.ips) };
        Self { tap, mac, ip }
    }

    fn send_arp(&mut self, operation: u8, to_mac: [u8; 6], to_ip: Ipv4Addr) {
        let mut frame = vec![0; VNET_HEADER];
        frame.extend(if operation == 1 { [0xff; 6] } else { to_mac });
        frame.extend(self.mac);
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(self.mac);
        frame.extend(self.ip.octets());
        frame.extend(to_mac);
        frame.extend(to_ip.octets());
        self.tap.write_all(&frame).unwrap();
    }

    /// The first frame, without its virtio header, that `wanted` likes.
    fn receive(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            match self.tap.read(&mut buffer) {
                Ok(length) if wanted(&buffer[VNET_HEADER..length]) => {
                    return buffer[VNET_HEADER..length].to_vec();
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no {what}");
    }
}

#[test]
#[ignore = "needs root and CNI plugins"]
fn a_bridged_pod_is_set_up_spoken_to_and_removed() {
    isolated(|network, dir| async move {
        configure(&dir, bridge(&dir));
        network.status().unwrap();
        let before = leftovers(&dir);
        let setup = network.setup(&request("pod-1"), 1).await.unwrap();
        assert_eq!(setup.ips[0].to_string(), "10.231.0.2");
        assert_eq!(setup.ips[1].to_string(), "fd00:231::2");
        let interface = &setup.interfaces[0];
        assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1400));
        assert_eq!(interface.addresses, ["10.231.0.2/24", "fd00:231::2/64"]);
        let routes: Vec<(&str, String)> =
            setup.routes.iter().map(|r| (r.destination.as_str(), r.gateway.unwrap().to_string())).collect();
        assert_eq!(routes, [("0.0.0.0/0", "10.231.0.1".to_owned()), ("::/0", "fd00:231::1".to_owned())]);
        assert!(matches!(network.setup(&request("pod-1"), 1).await, Err(NetworkError::AlreadySetUp { .. })));
        let inside = output(
            "nsenter",
            &[&format!("--net={}", network.netns_path("pod-1").display()), "ip", "-o", "link"],
        );
        assert!(inside.lines().any(|l| l.contains("lo:") && l.contains("LOOPBACK,UP")), "{inside}");
        assert!(inside.lines().any(|l| l.contains("husktap0:") && l.contains("mtu 1400")), "{inside}");
        assert!(output("iptables-save", &["-t", "nat"]).contains("10.231.0.2:80"));

        let mut guest = Guest::new(setup);
        let (mac, ip) = (guest.mac, guest.ip);
        // The guest's broadcast reaches the bridge, and the answer comes back.
        guest.send_arp(1, [0; 6], BRIDGE_IP);
        let answer = guest
            .receive("ARP reply of the bridge", |f| f.get(12..14) == Some(&[8, 6]) && f.get(21) == Some(&2));
        assert_eq!((&answer[..6], &answer[28..32]), (&mac[..], &BRIDGE_IP.octets()[..]));
        // Nobody but the guest answers for its address: the host goes on asking until the guest does.
        output("ip", &["neigh", "flush", "all"]);
        let socket = UdpSocket::bind((BRIDGE_IP, 0)).unwrap();
        socket.send_to(b"to the guest", (ip, 9)).unwrap();
        let question = |f: &[u8]| {
            f.get(12..14) == Some(&[8, 6]) && f.get(21) == Some(&1) && f.get(38..42) == Some(&ip.octets())
        };
        guest.receive("ARP request of the host", question);
        let again = guest.receive("second ARP request of the host", question);
        let neighbour = output("ip", &["neigh", "show", &ip.to_string()]);
        assert!(!neighbour.contains("lladdr"), "somebody answered: {neighbour}");
        guest.send_arp(2, again[6..12].try_into().unwrap(), BRIDGE_IP);
        guest.receive("datagram", |f| f.ends_with(b"to the guest"));

        drop(guest);
        network.teardown("pod-1").await.unwrap();
        network.teardown("pod-1").await.unwrap();
        assert_eq!(leftovers(&dir), before);
        assert!(network.known().unwrap().is_empty() && network.namespaces().unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs root and CNI plugins"]
fn teardown_uses_what_add_used_after_a_restart_and_a_change_of_configuration() {
    isolated(|network, dir| async move {
        configure(&dir, bridge(&dir));
        let before = leftovers(&dir);
        let setup = network.setup(&request("pod-1"), 1).await.unwrap();
        drop(setup);
        drop(network.setup(&request("pod-2"), 1).await.unwrap());
        configure(&dir, serde_json::json!([{"type": "no-such-plugin"}]));
        let restarted = PodNetwork::new(network.config.clone());
        assert!(matches!(restarted.status(), Err(NetworkError::PluginNotFound { .. })));
        assert_eq!(restarted.known().unwrap(), ["pod-1", "pod-2"]);
        restarted.teardown("pod-1").await.unwrap();
        // As after a restart of the host: the namespace is gone.
        netns::remove(&restarted.netns_path("pod-2")).await.unwrap();
        restarted.teardown("pod-2").await.unwrap();
        assert_eq!(leftovers(&dir), before);
    });
}

#[test]
#[ignore = "needs root and CNI plugins"]
fn a_failed_add_is_undone() {
    isolated(|network, dir| async move {
        let mut plugins = bridge(&dir);
        // The first plugin succeeds, the second does not know what it is asked for.
        plugins[1] = serde_json::json!({"type": "tuning", "sysctl": {"net.no.such": "1"}});
        configure(&dir, plugins);
        let before = leftovers(&dir);
        let error = network.setup(&request("pod-1"), 1).await.unwrap_err();
        assert!(
            matches!(&error, NetworkError::PluginFailed { plugin, command: "ADD", .. } if plugin == "tuning"),
            "{error}"
        );
        assert_eq!(leftovers(&dir), before);
    });
}

#[test]
#[ignore = "needs root and CNI plugins"]
fn a_pod_on_a_point_to_point_link_leads_all_over_its_gateway() {
    isolated(|network, dir| async move {
        let ipam = serde_json::json!({"type": "host-local", "dataDir": dir.join("leases"),
            "subnet": "10.231.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
        configure(&dir, serde_json::json!([{"type": "ptp", "ipam": ipam}]));
        let setup = network.setup(&request("pod-1"), 1).await.unwrap();
        assert_eq!(setup.interfaces[0].addresses, ["10.231.0.2/32"]);
        let routes: Vec<&str> = setup.routes.iter().map(|route| route.destination.as_str()).collect();
        assert_eq!(routes[0], "10.231.0.1/32");
        assert!(routes.contains(&"0.0.0.0/0") && routes.contains(&"10.231.0.0/24"), "{routes:?}");
        network.teardown("pod-1").await.unwrap();
    });
}

#[test]
#[ignore = "needs root and CNI plugins"]
fn pods_are_set_up_side_by_side() {
    isolated(|network, dir| async move {
        configure(&dir, bridge(&dir));
        let before = leftovers(&dir);
        let requests: Vec<_> = (0..5)
            .map(|n| PodNetworkRequest { port_mappings: Vec::new(), ..request(&format!("pod-{n}")) })
            .collect();
        let local = tokio::task::LocalSet::new();
        let tasks: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let network = network.clone();
                local.spawn_local(async move { network.setup(&request, 1).await.unwrap() })
            })
            .collect();
        let mut ips = BTreeSet::new();
        local
            .run_until(async {
                for task in tasks {
                    ips.insert(task.await.unwrap().ips[0]);
                }
            })
            .await;
        assert_eq!(ips.len(), 5);
        // Without published ports: portmap 1.1 looks for its IPv4 rules among the IPv6 ones of a dual-stack pod.
        network.check("pod-0").await.unwrap();
        let netns = format!("--net={}", network.netns_path("pod-0").display());
        output("nsenter", &[&netns, "ip", "link", "delete", "eth0"]);
        assert!(matches!(
            network.check("pod-0").await,
            Err(NetworkError::PluginFailed { command: "CHECK", .. })
        ));
        for n in 0..5 {
            network.teardown(&format!("pod-{n}")).await.unwrap();
        }
        assert_eq!(leftovers(&dir), before);
    });
}
