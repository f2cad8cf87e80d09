//! What serves a pod on the host may do no more than that: asked of the live processes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use husk_jail::intruder::{Fate, inject};
use husk_proto::cri;
use husk_tests::{Bed, Daemon, Pod, Process, container, expect_code, pod, short_dir, step, wait_for};
use tonic::Code;

/// `socket`, and its first arguments: an IPv4 stream.
const SOCKET: (i64, [u64; 6]) = (41, [2, 1, 0, 0, 0, 0]);
/// The default of `vm.uid_range`.
const USERS: std::ops::RangeInclusive<u32> = 1_879_048_192..=1_879_113_727;

const NOTHING: &str = "0000000000000000";

fn with_volume(bed: &Bed) -> cri::ContainerConfig {
    let mount = cri::Mount {
        host_path: bed.scratch("volume").display().to_string(),
        container_path: "/data".into(),
        ..Default::default()
    };
    cri::ContainerConfig { mounts: vec![mount], ..container("volume", "sleep 3600") }
}

async fn monitor(pod: &Pod) -> Process {
    Process(pod.vmm().await)
}

/// The user of a process, which is its group as well, real, effective, saved and of the file system.
fn user(process: Process) -> u32 {
    let uid = process.common("Uid");
    assert_eq!(process.common("Gid"), uid);
    let numbers: Vec<u32> = uid.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(numbers.len() == 4 && numbers.iter().all(|number| *number == numbers[0]), "{uid}");
    numbers[0]
}

/// All but its user and its network namespace.
fn confined(bed: &Bed, process: Process, id: &str) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(process.common(set), NOTHING, "{set}");
    }
    assert_eq!((process.common("NoNewPrivs"), process.common("Seccomp")), ("1".into(), "2".into()));
    assert_eq!(process.common("Groups"), "");
    assert!(process.status("NSpid").ends_with("\t1"), "{}", process.status("NSpid"));
    // Of a process that may not be looked into all is root's.
    assert_eq!(fs::metadata(process.path("status")).unwrap().uid(), 0);

    assert_eq!(process.names("root"), [""; 0]);
    assert_eq!(process.read("mountinfo").lines().count(), 1);
    assert_eq!(fs::read_link(process.path("cwd")).unwrap().to_str(), Some("/"));
    let daemon = Process(bed.daemon.pid() as i32);
    for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        assert_ne!(process.namespace(kind), daemon.namespace(kind), "{kind}");
    }
    let cgroup = format!("/husk-{id}");
    assert!(process.read("cgroup").lines().all(|line| line.ends_with(&cgroup)), "{}", process.read("cgroup"));

    for (name, most) in [
        ("Max core file size", 0),
        ("Max locked memory", 0),
        ("Max msgqueue size", 0),
        ("Max realtime priority", 0),
        ("Max processes", 64),
        ("Max open files", 8192),
    ] {
        assert!(process.limit(name) <= most, "{name}: {}", process.limit(name));
    }
    let own = [bed.daemon.root.display().to_string(), bed.daemon.run.display().to_string()];
    for link in process.descriptors() {
        let known = ["anon_inode:kvm-", "anon_inode:[event", "socket:["].iter().any(|kind| link.starts_with(kind))
            || [
                "/dev/null",
                "/dev/kvm",
                "/dev/net/tun",
                "/memfd:volumes (deleted)",
            ]
            .contains(&link.as_str())
            // Its log and console, the scratch disk, images' data.
            || own.iter().any(|dir| link.starts_with(dir.as_str()) && !link.ends_with('/'));
        assert!(known, "a descriptor of {link}");
    }
    for fd in process.names("fd") {
        let kind = fs::metadata(process.path("fd").join(fd)).unwrap().file_type();
        assert!(!kind.is_dir());
    }
}

/// What the daemon listens on: its socket, for root alone, and on loopback. Its files are root's as well.
pub async fn doors(bed: Arc<Bed>) {
    let endpoint = bed.daemon.endpoint();
    let socket = endpoint.strip_prefix("unix://").expect("a unix socket");
    let private =
        [(bed.daemon.root.as_path(), 0o700), (bed.daemon.run.as_path(), 0o700), (Path::new(socket), 0o600)];
    for (path, mode) in private {
        let metadata = fs::symlink_metadata(path).expect("look at it");
        let of = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
        assert_eq!(of, (0, 0, mode), "{}", path.display());
    }
    let daemon = Process(bed.daemon.pid() as i32);
    let own = daemon.descriptors();
    let is_own = |inode: &str| own.iter().any(|link| *link == format!("socket:[{inode}]"));
    let mut listening = Vec::new();
    for kind in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        // Number, local and remote address, state; the tenth is the inode (proc(5)).
        for line in daemon.read(&format!("net/{kind}")).lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // A connection to a registry listens to nobody.
            let listens = !kind.starts_with("tcp") || fields[3] == "0A";
            if listens && is_own(fields[9]) {
                listening.push(format!("{kind} {}", fields[1]));
            }
        }
    }
    assert!(matches!(listening.as_slice(), [only] if only.starts_with("tcp 0100007F:")), "{listening:?}");
}

/// Every pod's monitor: a user of its own and nothing else.
pub async fn monitors(bed: Arc<Bed>) {
    let (first, second) = tokio::join!(bed.pod(pod("first")), bed.pod(pod("second")));
    let inside = first.start(with_volume(&bed)).await;
    let beside = second.start(container("beside", "sleep 3600")).await;
    for pod in [&first, &second] {
        let process = monitor(pod).await;
        confined(&bed, process, &pod.id);
        let network = bed.daemon.run.join("netns").join(&pod.id);
        assert_eq!(process.namespace("net"), fs::metadata(network).unwrap().ino());
        let names: Vec<_> = process.threads().into_iter().map(|(_, name)| name).collect();
        for kind in ["husk-vmm", "vcpu0", "io", "block", "memory", "control", "signals"] {
            assert!(names.iter().any(|name| name == kind), "no thread {kind} in {names:?}");
        }
    }
    let users = [user(monitor(&first).await), user(monitor(&second).await)];
    assert!(users[0] != users[1] && users.iter().all(|user| USERS.contains(user)), "{users:?}");

    step("with another daemon as well");
    bed.daemon.kill();
    bed.daemon.start().await;
    let third = bed.pod(pod("third")).await;
    assert!(!users.contains(&user(monitor(&third).await)));
    assert_eq!([user(monitor(&first).await), user(monitor(&second).await)], users);

    step("the pods work");
    assert_eq!(inside.exec("echo hello >/data/file && cat /data/file").await, "hello\n");
    assert_eq!(beside.exec("echo hello").await, "hello\n");
}

/// A monitor that does what it may not is gone at once, with its pod, and is told of.
pub async fn a_call_that_is_not_allowed(bed: Arc<Bed>) {
    let (victim, other) = tokio::join!(bed.pod(pod("victim")), bed.pod(pod("other")));
    let inside = victim.start(container("inside", "sleep 3600")).await;
    let beside = other.start(container("beside", "sleep 3600")).await;
    let (pid, threads) = (victim.vmm().await, monitor(&victim).await.threads());
    let (thread, _) = threads.into_iter().find(|(_, name)| name == "io").expect("a thread io");
    let (call, arguments) = SOCKET;
    let fate = tokio::task::spawn_blocking(move || inject(thread, call, arguments)).await.unwrap();
    assert_eq!(fate.unwrap(), Fate::Killed);

    let status = inside.wait().await;
    assert!(status.exit_code != 0, "{status:?}");
    wait_for("the pod to be not ready", Duration::from_secs(60), || async {
        (victim.status().await.state() == cri::PodSandboxState::SandboxNotready).then_some(())
    })
    .await;
    let message = victim.describe().await.info.remove("message").unwrap_or_default();
    assert!(message.contains("SIGSYS") && message.contains("number 41, thread io"), "{message}");
    assert!(!monitor(&victim).await.path("status").exists() || victim.vmm().await != pid);
    assert_eq!(beside.exec("echo alive").await, "alive\n");
}

/// When every user has a pod, the next one is refused; a user is free again when its pod is removed.
pub async fn users_run_out(bed: Arc<Bed>) {
    let dir = short_dir();
    let daemon = Daemon::prepare(dir.path(), &bed.paths, &bed.cni, &bed.registry.url()).without_templates();
    let config = fs::read_to_string(&daemon.config).unwrap();
    let config = config.replace("[vm]\n", "[vm]\nuid_range = [1879200000, 1879200001]\n");
    fs::write(&daemon.config, config).unwrap();
    daemon.start().await;
    let client = daemon.client();
    let only = Pod::run(&client, pod("only")).await;
    assert_eq!(user(monitor(&only).await), 1_879_200_000);
    let request = cri::RunPodSandboxRequest { config: Some(pod("late")), ..Default::default() };
    let refused = client.runtime().run_pod_sandbox(request.clone()).await;
    expect_code(refused, &[Code::ResourceExhausted], &["1879200000", "vm.uid_range"]);
    only.stop().await;
    only.remove().await;
    let late = Pod::run(&client, pod("later")).await;
    assert_eq!(user(monitor(&late).await), 1_879_200_000);
    late.remove().await;
}

/// chown, dac_override, fowner, fsetid, setgid, setuid, setfcap.
const SERVING: &str = "00000000800000db";

/// The server of a pod's volumes stays root, and has what serving files takes.
pub async fn volume_servers(bed: Arc<Bed>) {
    let (first, second) = tokio::join!(bed.pod(pod("first")), bed.pod(pod("second")));
    let inside = first.start(with_volume(&bed)).await;
    let beside = second.start(with_volume(&bed)).await;
    let servers = |pod: &Pod| Process::find("--shared-dir", &pod.id);
    let daemon = Process(bed.daemon.pid() as i32);
    for (pod, container) in [(&first, &inside), (&second, &beside)] {
        let found = servers(pod);
        let [outside, server] = found[..] else { panic!("not two servers: {found:?}") };
        for process in [outside, server] {
            assert_eq!((process.common("NoNewPrivs"), process.common("Seccomp")), ("1".into(), "2".into()));
            assert_eq!(process.names("root"), [container.id.as_str()]);
            assert_eq!(process.limit("Max core file size"), 0);
            assert_eq!(process.limit("Max locked memory"), 0);
            for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
                assert_ne!(process.namespace(kind), daemon.namespace(kind), "{kind}");
            }
            let cgroup = format!("/husk-{}", pod.id);
            assert!(process.read("cgroup").lines().all(|line| line.ends_with(&cgroup)));
        }
        assert_eq!((server.common("CapEff"), server.common("CapPrm")), (SERVING.into(), SERVING.into()));
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(server.common(set), NOTHING, "{set}");
        }
        // Only waits for the other's end.
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(outside.common(set), NOTHING, "{set}");
        }
        assert!(server.status("NSpid").ends_with("\t1") && outside.status("NSpid").ends_with("\t1"));
        assert_ne!(server.namespace("pid"), outside.namespace("pid"));
    }
    step("it serves as any user, and makes no device nodes");
    inside.exec("echo a >/data/a && chown 1234:567 /data/a && chmod 4755 /data/a && mkfifo /data/fifo").await;
    assert_eq!(inside.exec("stat -c '%u %g %a' /data/a").await, "1234 567 4755\n");
    let refused = inside.try_exec(&["mknod", "/data/disk", "b", "8", "0"], 10).await.expect("ExecSync");
    assert_ne!(refused.exit_code, 0);

    step("a call that it may not make");
    let (call, arguments) = SOCKET;
    for (pod, of) in [(&first, 1), (&second, 0)] {
        let process = servers(pod)[of];
        let fate = tokio::task::spawn_blocking(move || inject(process.0, call, arguments)).await.unwrap();
        assert_eq!(fate.unwrap(), Fate::Killed);
        wait_for("the pod to tell of it", Duration::from_secs(20), || async {
            pod.describe().await.info.remove("message").filter(|message| message.contains("virtiofsd"))
        })
        .await;
        wait_for("both processes to be gone", Duration::from_secs(60), || async {
            servers(pod).is_empty().then_some(())
        })
        .await;
        assert_eq!(pod.status().await.state(), cri::PodSandboxState::SandboxReady);
    }
    assert_eq!(inside.exec("echo alive").await, "alive\n");
}

/// What converts an image is nobody, and has nothing.
pub async fn conversion_workers(bed: Arc<Bed>) {
    let dir = short_dir();
    let daemon = Daemon::prepare(dir.path(), &bed.paths, &bed.cni, &bed.registry.url()).without_templates();
    daemon.start().await;
    let client = daemon.client();
    let pull = tokio::spawn(async move { client.pull("docker.io/husk/nginx:latest").await });
    // Looked at as it comes and goes.
    let parent = format!("\nPPid:\t{}\n", daemon.pid());
    let mut seen = 0;
    while !pull.is_finished() {
        for name in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
            let read = |file: &str| fs::read_to_string(name.join(file)).unwrap_or_default();
            let status = read("status");
            let begun = status.contains(&parent) && status.contains("\nSeccomp:\t2\n");
            if !begun || !status.starts_with("Name:\thusk-convert\n") {
                continue;
            }
            assert!(status.contains("\nUid:\t64997\t64997\t64997\t64997\n"), "{status}");
            assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
            let cgroup = read("cgroup");
            seen +=
                usize::from(!cgroup.is_empty() && cgroup.lines().all(|line| line.ends_with("/husk-convert")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    pull.await.unwrap().expect("PullImage");
    assert!(seen > 0, "no conversion worker was seen in its cgroup");
}
