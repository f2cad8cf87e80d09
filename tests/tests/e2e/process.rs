//! What a container's process is given and how its end is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_proto::cri;
use husk_proto::cri::security_profile::ProfileType;
use husk_tests::{Bed, container, expect_code, image, pod, step};
use tonic::Code;

const USER_IMAGE: &str = "docker.io/husk/user:latest";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A container that runs what its image says.
fn of_image(name: &str, from: &str) -> cri::ContainerConfig {
    cri::ContainerConfig { image: Some(image(from)), command: Vec::new(), ..container(name, "") }
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// Entrypoint, arguments, environment, directory and user of the image.
pub async fn image_configuration(bed: Arc<Bed>) {
    bed.client.pull(USER_IMAGE).await.expect("PullImage");
    let pod = bed.pod(pod("image")).await;
    let (container, status) = pod.complete(of_image("plain", USER_IMAGE)).await;
    let text = container.text();
    for line in [
        "arguments:entrypoint cmd",
        "directory:/work/here",
        "user:uid=1234(app) gid=1234(app) groups=1234(app),4321(extra),4322(more)",
        "env:FROM_IMAGE=image",
        "env:BOTH=image",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in:\n{text}");
    }
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    let user = status.user.and_then(|user| user.linux).expect("the status has the user");
    assert_eq!((user.uid, user.gid), (1234, 1234));
    assert_eq!(user.supplemental_groups, [1234, 4321, 4322]);
}

/// What the request says goes before what the image says.
pub async fn request_overrides_image(bed: Arc<Bed>) {
    bed.client.pull(USER_IMAGE).await.expect("PullImage");
    let pod = bed.pod(pod("override")).await;

    step("args alone replace the image's, and keep its entrypoint");
    let mut config = of_image("args", USER_IMAGE);
    config.args = words(&["a b", "", "$HOME"]);
    config.envs = vec![
        cri::KeyValue { key: "BOTH".into(), value: "request".into() },
        cri::KeyValue { key: "ODD".into(), value: "two words = 'quoted' \\ $x".into() },
    ];
    config.working_dir = "/tmp".into();
    let (container, _) = pod.complete(config).await;
    let text = container.text();
    for line in [
        "arguments:entrypoint a b  $HOME",
        "directory:/tmp",
        "env:FROM_IMAGE=image",
        "env:BOTH=request",
        "env:ODD=two words = 'quoted' \\ $x",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in:\n{text}");
    }
    assert_eq!(text.matches("env:BOTH=").count(), 1);

    step("a command alone drops the image's arguments");
    let mut config = of_image("command", USER_IMAGE);
    config.command = words(&["/bin/report"]);
    let (container, _) = pod.complete(config).await;
    assert!(container.text().starts_with("arguments:\n"), "{}", container.text());

    step("both");
    let mut config = of_image("both", USER_IMAGE);
    config.command = words(&["/bin/report", "x"]);
    config.args = words(&["y"]);
    let (container, _) = pod.complete(config).await;
    assert!(container.text().starts_with("arguments:x y\n"), "{}", container.text());
}

/// Users by name and number, groups of the image and of the request.
pub async fn users_and_groups(bed: Arc<Bed>) {
    let pod = bed.pod(pod("users")).await;
    let number = |value: i64| Some(cri::Int64Value { value });
    type Change = fn(&mut cri::LinuxContainerSecurityContext);
    let id_of = async |name: &str, change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        step(name);
        let mut config = container("user", "id");
        change(security(&mut config));
        let (container, _) = pod.complete(config).await;
        container.text().trim_end().to_owned()
    };
    let default: Change = |_| {};
    assert_eq!(id_of("nothing said", &default).await, "uid=0(root) gid=0(root) groups=0(root)");
    assert_eq!(
        id_of("a name", &|s| s.run_as_username = "www-data".into()).await,
        "uid=33(www-data) gid=33(www-data) groups=33(www-data),4322(more)"
    );
    assert_eq!(
        id_of("a known number", &|s| s.run_as_user = number(1234)).await,
        "uid=1234(app) gid=1234(app) groups=1234(app),4321(extra),4322(more)"
    );
    assert_eq!(
        id_of("an unknown number", &|s| s.run_as_user = number(7777)).await,
        "uid=7777 gid=0(root) groups=0(root)"
    );
    assert_eq!(
        id_of("numbers of user, group and more groups", &|s| {
            s.run_as_user = number(7777);
            s.run_as_group = number(8888);
            s.supplemental_groups = vec![9999, 5];
        })
        .await,
        "uid=7777 gid=8888 groups=5(tty),8888,9999"
    );
    assert_eq!(
        id_of("the request's groups alone", &|s| {
            s.run_as_user = number(1234);
            s.supplemental_groups = vec![9999];
            s.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        })
        .await,
        "uid=1234(app) gid=1234(app) groups=1234(app),9999"
    );

    step("a group without a user, and numbers that no kernel knows");
    let changes: [(&str, Change); 2] = [
        ("run_as_group", |s| s.run_as_group = Some(cri::Int64Value { value: 8888 })),
        ("run_as_user is -1", |s| s.run_as_user = Some(cri::Int64Value { value: -1 })),
    ];
    for (says, change) in changes {
        let mut config = container("user", "id");
        change(security(&mut config));
        expect_code(pod.try_create(config).await, &[Code::InvalidArgument], &[says]);
    }

    step("a user that the image does not have is refused by name");
    let mut config = container("user", "id");
    security(&mut config).run_as_username = "nobody-knows".into();
    let refused = match pod.try_create(config).await {
        Ok(container) => container.start().await,
        Err(status) => Err(status),
    };
    expect_code(refused, &[Code::InvalidArgument, Code::FailedPrecondition], &["nobody-knows"]);
}

/// A root that cannot be written, and one that can and is thrown away.
pub async fn read_only_root(bed: Arc<Bed>) {
    let pod = bed.pod(pod("root")).await;
    let mut config = container("read-only", "touch /new; echo code:$?; touch /dev/shm/new; echo shm:$?");
    security(&mut config).readonly_rootfs = true;
    let (container, _) = pod.complete(config).await;
    let text = container.text();
    assert!(
        text.contains("Read-only file system") && text.contains("code:1") && text.contains("shm:0"),
        "{text}"
    );

    step("a writable root is the container's own");
    let line = "echo mine >/etc/hostname2; rm /bin/vi; ls /etc/hostname2 /bin/vi 2>&1; true";
    assert!(pod.output(line).await.contains("/bin/vi: No such file"));
    let other = pod.output("ls /etc/hostname2 /bin/vi 2>&1; true").await;
    assert!(other.contains("/etc/hostname2: No such file") && other.contains("/bin/vi\n"), "{other}");
}

/// The end of a process, and when it was.
pub async fn exit_codes_and_reasons(bed: Arc<Bed>) {
    let pod = bed.pod(pod("exit")).await;
    let before = nanos();
    for (line, code, reason) in [
        ("exit 0", 0, "Completed"),
        ("exit 3", 3, "Error"),
        ("exit 255", 255, "Error"),
        ("kill -KILL $$", 137, "Error"),
        ("kill -TERM $$; sleep 5; exit 1", 143, "Error"),
    ] {
        step(line);
        // Not as PID 1 of its namespace, which the kernel shields from its own signals.
        let line =
            if line.starts_with("kill") { format!("sh -c '{line}'; exit $?") } else { line.to_owned() };
        let (_, status) = pod.complete(container("exit", &line)).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{line}");
        let times = [before, status.created_at, status.started_at, status.finished_at, nanos()];
        assert!(times.is_sorted() && status.finished_at > status.started_at, "times go back: {times:?}");
    }

    step("SIGKILL to the container itself");
    let running = pod.start(container("killed", "sleep 3600")).await;
    running.stop(0).await;
    let status = running.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));

    step("a container that was never started");
    let created = pod.create(container("created", "true")).await;
    let status = created.status().await;
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
    assert_eq!((status.started_at, status.finished_at), (0, 0));
    expect_code(created.try_exec(&["true"], 0).await, &[Code::FailedPrecondition], &[&created.id]);
}

fn nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_nanos() as i64
}

/// A command that the image lacks: an error that names it, and a container that says StartError.
pub async fn command_not_in_image(bed: Arc<Bed>) {
    let pod = bed.pod(pod("missing")).await;
    for command in ["no-such-command", "/no/such/path", "/etc/passwd"] {
        step(command);
        let mut config = container("missing", "");
        config.command = words(&[command, "argument"]);
        let container = pod.create(config).await;
        expect_code(container.start().await, &[Code::FailedPrecondition, Code::InvalidArgument], &[command]);
        let status = container.status().await;
        assert_eq!(status.state(), cri::ContainerState::ContainerExited);
        assert_eq!(status.reason, "StartError");
        assert_ne!(status.exit_code, 0);
        assert!(status.message.contains(command), "the message does not name it: {:?}", status.message);
        container.remove().await;
    }
    assert_eq!(pod.output("echo goes on").await, "goes on\n");
}

/// A container over its memory limit.
pub async fn out_of_memory(bed: Arc<Bed>) {
    let pod = bed.pod(pod("memory")).await;
    let beside = pod.start(container("beside", "sleep 3600")).await;
    let limited = |command: &[&str]| {
        let mut config = container("greedy", "");
        config.command = words(command);
        let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
        resources.memory_limit_in_bytes = 32 << 20;
        config
    };
    let (_, status) =
        pod.complete(limited(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"])).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("OOMKilled", 137));

    step("below the limit it ends well, and the container beside it goes on");
    let (_, status) =
        pod.complete(limited(&["dd", "if=/dev/zero", "of=/dev/null", "bs=10M", "count=1"])).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("Completed", 0));
    assert_eq!(beside.exec("echo alive").await, "alive\n");
}

/// The image's stop signal, and SIGKILL after the timeout.
pub async fn stop_signal_and_timeout(bed: Arc<Bed>) {
    bed.client.pull(USER_IMAGE).await.expect("PullImage");
    let pod = bed.pod(pod("stop")).await;

    step("the image's stop signal");
    let mut config = of_image("signal", USER_IMAGE);
    config.command = words(&["/bin/until-usr1"]);
    let container_usr1 = pod.start(config).await;
    container_usr1.wait_log("ready").await;
    let begun = Instant::now();
    container_usr1.stop(60).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "the stop signal was not heeded");
    let status = container_usr1.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"), "{}", container_usr1.text());
    assert!(container_usr1.text().contains("USR1"));

    step("a stop before the command has set its handler");
    let line = "sleep 1; trap 'exit 6' TERM; while :; do sleep 0.1; done";
    let early = pod.start(container("early", line)).await;
    early.stop(60).await;
    assert_eq!(early.status().await.exit_code, 6);

    step("SIGTERM by default");
    let line = "trap 'echo TERM; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let terminated = pod.start(container("term", line)).await;
    terminated.wait_log("ready").await;
    terminated.stop(60).await;
    assert_eq!(terminated.status().await.exit_code, 5);

    step("SIGKILL after the timeout, to the children as well");
    let stubborn = pod
        .start(container("stubborn", "trap '' TERM; sleep 7654 & echo ready; while :; do wait; done"))
        .await;
    stubborn.wait_log("ready").await;
    let begun = Instant::now();
    stubborn.stop(2).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "stopped after {took:?}");
    assert_eq!(stubborn.status().await.exit_code, 137);

    step("stopping again changes nothing");
    let before = stubborn.status().await;
    stubborn.stop(2).await;
    assert_eq!(stubborn.status().await, before);
}

/// Each container sees its own processes; the kernel is the pod's, not the host's.
pub async fn isolation(bed: Arc<Bed>) {
    let pod = bed.pod(pod("isolation")).await;
    let neighbour = pod.start(container("neighbour", "sleep 4321")).await;
    let text =
        pod.output("ps; echo; uname -r; cat /proc/1/cgroup; mount; ls /dev; cat /proc/self/status").await;
    assert!(!text.contains("sleep 4321"), "it sees its neighbour's processes:\n{text}");
    let host = husk_tests::sh("uname -r");
    assert!(!text.lines().any(|line| line == host.trim()), "it sees the host's kernel:\n{text}");
    assert!(!text.lines().any(|line| line == "vda" || line == "kmsg"), "it sees the pod's devices:\n{text}");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().to_owned()
    };
    // The default 14 capabilities, as of linux/capability.h.
    assert_eq!(field("CapBnd:"), "00000000a80425fb");
    let (container, _) =
        pod.complete(container("sysctl", "echo 1 >/proc/sys/kernel/panic; mount -t tmpfs x /tmp")).await;
    let text = container.text();
    assert!(text.contains("Read-only file system") && text.contains("ermission denied"), "{text}");
    neighbour.remove().await;
}

/// The guest's scheduler does not watch for starved tasks, which would wake an idle guest each second, until there is a
/// container that could starve them.
pub async fn real_time(bed: Arc<Bed>) {
    const SHARE: &str = "/tmp/sched/fair_server/cpu0/runtime";
    let pod = bed.pod(pod("real-time")).await;
    let share = async |name: &str, capabilities: &[&str], line: &str| {
        let mut config = container(name, &format!("mount -t debugfs d /tmp && {line}; cat {SHARE}"));
        security(&mut config).capabilities =
            Some(cri::Capability { add_capabilities: words(capabilities), ..Default::default() });
        pod.complete(config).await.0.text()
    };
    // A guest that has just booted comes to rest a moment later.
    let at_rest = format!("for i in $(seq 100); do grep -qx 0 {SHARE} && break; sleep 0.1; done");
    assert_eq!(share("plain", &["SYS_ADMIN"], &at_rest).await.trim(), "0");
    assert_eq!(share("real-time", &["SYS_ADMIN", "SYS_NICE"], "true").await.trim(), "50000000");
    assert_eq!(share("again", &["SYS_ADMIN"], "true").await.trim(), "50000000");
}

/// Containers that share their processes, and one that looks into another's.
pub async fn shared_processes(bed: Arc<Bed>) {
    let pod = bed.pod(pod("processes")).await;
    let with_pids = |line: &str, mode: cri::NamespaceMode, target_id: &str| {
        let mut config = container("shared", line);
        security(&mut config).namespace_options = Some(cri::NamespaceOption {
            pid: mode.into(),
            target_id: target_id.into(),
            ..Default::default()
        });
        config
    };
    step("two that share");
    let first = pod.start(with_pids("sleep 1111 & (sleep 0.1 &) ; wait", cri::NamespaceMode::Pod, "")).await;
    let second = pod.start(with_pids("exec sleep 2222", cri::NamespaceMode::Pod, "")).await;
    let alone = pod.start(with_pids("exec sleep 3333", cri::NamespaceMode::Container, "")).await;
    for container in [&first, &second] {
        let seen = container.exec("sleep 1; ps -o pid,stat,args").await;
        assert!(seen.contains("sleep 1111") && seen.contains("sleep 2222"), "{seen}");
        assert!(!seen.contains("sleep 3333") && !seen.contains("husk-agent serve"), "{seen}");
        assert!(!seen.contains(" Z "), "an orphan was not reaped:\n{seen}");
    }
    let holder = "kill -9 1; ls -A /proc/1/root/ 2>&1; cat /proc/1/mountinfo 2>&1; grep CapEff /proc/1/status; echo end";
    let told = first.exec(holder).await;
    assert!(told.contains("end") && !told.contains("husk"), "PID 1 shows the guest's own files:\n{told}");
    assert!(told.contains("CapEff:\t0000000000000000"), "{told}");

    step("one ends and the other goes on");
    first.stop(0).await;
    assert_eq!(second.status().await.state(), cri::ContainerState::ContainerRunning);
    let seen = second.exec("ps -o args").await;
    assert!(!seen.contains("sleep 1111"), "what the container left still runs:\n{seen}");
    let third = pod.start(with_pids("exec sleep 4444", cri::NamespaceMode::Pod, "")).await;
    assert!(third.exec("ps -o args").await.contains("sleep 2222"));

    step("one that looks into another");
    let looker = pod.start(with_pids("exec sleep 5555", cri::NamespaceMode::Target, &alone.id)).await;
    let seen = looker.exec("cat /proc/1/cmdline | tr '\\0' ' '; ps -o args").await;
    assert!(seen.starts_with("sleep 3333 ") && seen.contains("sleep 5555"), "{seen}");
    alone.stop(0).await;
    looker.wait().await;
    let late = pod.create(with_pids("true", cri::NamespaceMode::Target, &alone.id)).await;
    let error = late.start().await.expect_err("its target has ended");
    assert!(error.message().contains("not running"), "{error}");

    step("what cannot be");
    let other = bed.pod(husk_tests::pod("other")).await;
    for (config, code, says) in [
        (with_pids("true", cri::NamespaceMode::Target, "nobody"), Code::NotFound, "nobody"),
        (with_pids("true", cri::NamespaceMode::Node, ""), Code::InvalidArgument, "PID"),
    ] {
        expect_code(pod.try_create(config).await, &[code], &[says]);
    }
    let foreign = with_pids("true", cri::NamespaceMode::Target, &second.id);
    expect_code(other.try_create(foreign).await, &[Code::InvalidArgument], &["another pod"]);
}

/// The filters that a request can ask for, as the guest's kernel applies them.
pub async fn seccomp(bed: Arc<Bed>) {
    let pod = bed.pod(pod("seccomp")).await;
    let run = async |kind: Option<ProfileType>, profile: &str| {
        let line =
            "grep '^Seccomp:' /proc/self/status; touch /tmp/x; chmod 600 /tmp/x; unshare -U true; true";
        let mut config = container("seccomp", line);
        security(&mut config).seccomp = kind
            .map(|kind| cri::SecurityProfile { profile_type: kind.into(), localhost_ref: profile.into() });
        pod.try_create(config).await
    };
    let text = async |kind, profile: &str| {
        let container = run(kind, profile).await.expect("CreateContainer");
        container.start().await.expect("StartContainer");
        container.wait().await;
        container.text()
    };
    for kind in [None, Some(ProfileType::Unconfined)] {
        let text = text(kind, "").await;
        assert!(text.contains("Seccomp:\t0") && !text.contains("chmod"), "{text}");
    }
    let by_default = text(Some(ProfileType::RuntimeDefault), "").await;
    assert!(by_default.contains("Seccomp:\t2") && !by_default.contains("chmod"), "{by_default}");
    assert!(by_default.contains("unshare"), "a new user namespace was made: {by_default}");

    let profile = bed.scratch("seccomp").join("no-chmod.json");
    let rules = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&profile, rules).expect("write the profile");
    let local = text(Some(ProfileType::Localhost), &profile.display().to_string()).await;
    assert!(local.contains("Seccomp:\t2") && local.contains("chmod:"), "{local}");
    let error = run(Some(ProfileType::Localhost), "/nonexistent/profile.json").await.expect_err("no profile");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("/nonexistent/profile.json"), "{error}");
}

/// Limits change while a container runs and before it does; figures of the pod and its containers are told.
pub async fn limits_and_figures(bed: Arc<Bed>) {
    let pod = bed.pod(pod("limits")).await;
    let mut runtime = bed.client.runtime();
    let mut config = container("limits", "sleep 3600");
    let limits =
        |memory: i64| cri::LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() };
    let swap = 100 << 20;
    config.linux.get_or_insert_default().resources =
        Some(cri::LinuxContainerResources { memory_swap_limit_in_bytes: swap, ..limits(64 << 20) });
    let container = pod.create(config).await;
    let mut update = async |linux: cri::LinuxContainerResources| {
        let container_id = container.id.clone();
        let request =
            cri::UpdateContainerResourcesRequest { container_id, linux: Some(linux), ..Default::default() };
        runtime.update_container_resources(request).await
    };
    update(limits(72 << 20)).await.expect("an update before the start");
    container.start().await.expect("StartContainer");
    let read = async || container.exec("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max").await;
    assert_eq!(read().await, format!("{}\nmax 100000\n", 72 << 20));
    let told = container.status().await.resources.and_then(|resources| resources.linux).expect("resources");
    assert_eq!(told.memory_swap_limit_in_bytes, swap, "what an update does not name stays");
    let less = cri::LinuxContainerResources { memory_swap_limit_in_bytes: 1 << 20, ..Default::default() };
    expect_code(update(less).await, &[Code::InvalidArgument], &["memory_swap_limit_in_bytes"]);
    let more = cri::LinuxContainerResources { cpu_quota: 50_000, cpu_period: 100_000, ..limits(80 << 20) };
    update(more).await.expect("an update of a running container");
    assert_eq!(read().await, format!("{}\n50000 100000\n", 80 << 20));
    let told = container.status().await.resources.and_then(|resources| resources.linux).expect("resources");
    assert_eq!((told.memory_limit_in_bytes, told.cpu_quota), (80 << 20, 50_000));
    expect_code(update(limits(-1)).await, &[Code::InvalidArgument], &["memory_limit_in_bytes"]);

    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let answer = bed.client.runtime().pod_sandbox_stats(request).await.expect("PodSandboxStats");
    let figures = answer.into_inner().stats.and_then(|stats| stats.linux).expect("figures");
    let value = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
    let memory = figures.memory.expect("memory");
    // The VMM's own, and what a guest has written since it was its template: all of a kernel is not counted for each pod.
    assert!(value(memory.rss_bytes) > 4 << 20, "a guest takes more than {memory:?}");
    assert!(value(figures.cpu.and_then(|cpu| cpu.usage_core_nano_seconds)) > 100_000_000);
    assert!(value(figures.process.and_then(|process| process.process_count)) >= 1);
    assert_eq!(figures.containers.len(), 1);
    assert!(value(figures.containers[0].memory.as_ref().and_then(|memory| memory.usage_bytes)) > 0);
}
