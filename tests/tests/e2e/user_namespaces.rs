//! Pods with a user namespace: what ids mean in their containers, on their volumes and on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, Container, container, expect_code, image, pod, sh, step};
use tonic::Code;

const FIRST: u32 = 100_000;
const LENGTH: u32 = 65_536;

fn range(container_id: u32, host_id: u32, length: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id, container_id, length }]
}

fn options(mode: cri::NamespaceMode, ids: Vec<cri::IdMapping>) -> cri::NamespaceOption {
    let users = cri::UserNamespace { mode: mode.into(), uids: ids.clone(), gids: ids };
    cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        userns_options: Some(users),
        ..Default::default()
    }
}

fn mapped() -> cri::NamespaceOption {
    options(cri::NamespaceMode::Pod, range(0, FIRST, LENGTH))
}

fn pod_with(options: cri::NamespaceOption) -> cri::PodSandboxConfig {
    let mut config = pod("users");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options = Some(options);
    config
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn with(line: &str, options: cri::NamespaceOption) -> cri::ContainerConfig {
    let mut config = container("users", line);
    security(&mut config).namespace_options = Some(options);
    config
}

fn volume(host: &Path, inside: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.display().to_string(),
        container_path: inside.into(),
        uid_mappings: range(0, FIRST, LENGTH),
        gid_mappings: range(0, FIRST, LENGTH),
        ..Default::default()
    }
}

async fn fails(container: &Container, line: &str) {
    let outcome = container.try_exec(&["sh", "-c", line], 30).await.expect("ExecSync");
    assert_ne!(outcome.exit_code, 0, "{line} must fail");
}

/// The container's root is not the guest's, owns what is the image's, and may do no more than in its container.
pub async fn ids(bed: Arc<Bed>) {
    let pod = bed.pod(pod_with(mapped())).await;
    let mut config =
        with("cat /proc/self/uid_map /proc/self/gid_map; id -u; touch /made; sleep 3600", mapped());
    config.working_dir = "/not/there/yet".into();
    let container = pod.start(config).await;
    let map = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    container.wait_log("\n0\n").await;
    assert_eq!(map(&container.text()), "0 100000 65536 0 100000 65536 0");
    step("files are as the image has them, and who makes one owns it");
    let owners =
        container.exec("stat -c '%u:%g' / /bin/busybox /made /dev /dev/shm /etc/hosts /not/there/yet").await;
    assert_eq!(owners, "0:0\n".repeat(7));
    container
        .exec("echo '10.9.8.7 more' >>/etc/hosts; echo x >/dev/shm/x; chown 33:33 /made; cp -a /etc /copy")
        .await;
    assert_eq!(container.exec("stat -c '%u:%g' /made; stat -c %u /copy/passwd").await, "33:33\n0\n");
    assert_eq!(
        container.exec("ls -d /sys/class /sys/fs/cgroup/cgroup.procs /dev/mqueue; ls /dev/pts").await,
        "/dev/mqueue\n/sys/class\n/sys/fs/cgroup/cgroup.procs\nptmx\n"
    );
    step("what is the guest's stays the guest's");
    for line in [
        "echo x >/proc/sys/kernel/hostname",
        "hostname other",
        "mknod /disk b 254 0",
        "mount -t tmpfs none /mnt",
        "echo 1 >/proc/sysrq-trigger",
        "date -s 2001-01-01; test $(date +%Y) = 2001",
        "touch /sys/new",
    ] {
        fails(&container, line).await;
    }
    step("another user, and one that is none of the pod's");
    let mut config =
        with("id; grep Groups /proc/self/status; stat -L -c %u /proc/self; echo ok >/dev/stdout", mapped());
    security(&mut config).run_as_user = Some(cri::Int64Value { value: 1234 });
    security(&mut config).supplemental_groups = vec![999];
    let (other, status) = pod.complete(config).await;
    let text = other.text();
    assert_eq!(status.exit_code, 0, "{text}");
    assert!(text.starts_with("uid=1234(app) gid=1234(app)") && text.ends_with("1234\nok\n"), "{text}");
    let user = status.user.and_then(|user| user.linux).expect("the status has the user");
    assert_eq!((user.uid, user.gid), (1234, 1234));
    let mut config = with("true", mapped());
    security(&mut config).run_as_user = Some(cri::Int64Value { value: LENGTH.into() });
    expect_code(pod.try_create(config).await, &[Code::InvalidArgument], &["65536", "user namespace"]);
    step("a root that is read-only");
    let mut config = with("touch /x; touch /dev/shm/x && stat -c %u /bin/busybox", mapped());
    security(&mut config).readonly_rootfs = true;
    let (read_only, _) = pod.complete(config).await;
    let text = read_only.text();
    assert!(text.contains("Read-only file system") && text.ends_with("\n0\n"), "{text}");
    step("all that a container can have is no more than its namespace's");
    let mut config = with("sleep 3600", mapped());
    security(&mut config).privileged = true;
    let privileged = pod.start(config).await;
    privileged.exec("mkdir /m && mount -t tmpfs none /m && umount /m").await;
    for line in [
        "mknod /disk b 254 0",
        "hostname other",
        "echo 1 >/proc/sys/kernel/panic",
        "echo x >/sys/kernel/uevent_helper",
    ] {
        fails(&privileged, line).await;
    }
    step("its end");
    container.stop(1).await;
    assert_eq!(container.status().await.exit_code, 137);
    container.remove().await;
}

/// Commands beside the container's own, with and without a terminal, and processes that are shared.
pub async fn processes(bed: Arc<Bed>) {
    let pod = bed.pod(pod_with(mapped())).await;
    let first = pod.start(with("sleep 1111", mapped())).await;
    assert_eq!(
        first.exec("id -u; cat /proc/self/uid_map | tr -s ' '; echo x >/dev/stderr").await,
        "0\n 0 100000 65536\n"
    );
    assert_eq!(
        first.exec("readlink /proc/self/ns/user >/a; [ \"$(cat /a)\" = \"$(readlink /proc/1/ns/user)\" ]; echo $?").await,
        "0\n"
    );
    step("a terminal");
    let line = "stat -c '%u:%g' \"$(tty)\"; echo typed >/dev/tty; exec 3<>\"$(tty)\" && echo opened";
    let args = ["exec", "-it", &first.id, "sh", "-c", line];
    let output = bed.crictl().on_terminal("exec \"$@\"", &args).wait_with_output().expect("run crictl");
    // The end of what is typed is echoed when it comes early.
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "").replace("^@", "");
    assert!(text.contains("0:5\ntyped\nopened"), "{text:?} {output:?}");
    let mut config = with("stat -c '%u:%g' \"$(tty)\"; tty; exec 3<>\"$(tty)\" && echo opened", mapped());
    config.tty = true;
    security(&mut config).run_as_user = Some(cri::Int64Value { value: 33 });
    let (own, _) = pod.complete(config).await;
    assert_eq!(own.text().replace('\r', ""), "33:5\n/dev/pts/0\nopened\n");

    step("two that share their processes, and one that looks into another's");
    let shared = cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..mapped() };
    let second = pod.start(with("exec sleep 2222", shared.clone())).await;
    let third = pod.start(with("exec sleep 3333", shared)).await;
    let seen = third.exec("ps -o user,args").await;
    assert!(seen.contains("sleep 2222") && seen.contains("sleep 3333"), "{seen}");
    assert!(!seen.contains("sleep 1111"), "{seen}");
    let told = third.exec("kill -9 1; ls -A /proc/1/root/ 2>&1; grep CapEff /proc/1/status; echo end").await;
    assert!(told.contains("CapEff:\t0000000000000000") && !told.contains("husk"), "{told}");
    third.exec("kill -9 $(pidof sleep | tr ' ' '\n' | while read p; do grep -q 2222 /proc/$p/cmdline && echo $p; done)").await;
    assert_eq!(second.wait().await.exit_code, 137);
    let look = cri::NamespaceOption {
        pid: cri::NamespaceMode::Target.into(),
        target_id: first.id.clone(),
        ..mapped()
    };
    let looker = pod.start(with("exec sleep 4444", look)).await;
    assert!(looker.exec("cat /proc/1/cmdline | tr '\\0' ' '").await.contains("sleep 1111"));

    step("figures");
    let request = cri::ContainerStatsRequest { container_id: first.id.clone() };
    let stats =
        bed.client.runtime().container_stats(request).await.expect("ContainerStats").into_inner().stats;
    assert!(stats.and_then(|stats| stats.memory).is_some());
}

/// What the container's root makes on a volume is root's on the host, and the other way round.
pub async fn volumes(bed: Arc<Bed>) {
    let host = bed.scratch("users");
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    let data = host.join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("roots"), "of the host").unwrap();
    fs::write(data.join("apps"), "x").unwrap();
    chown(data.join("apps"), Some(1234), Some(567)).unwrap();
    fs::write(data.join("foreign"), "x").unwrap();
    chown(data.join("foreign"), Some(LENGTH + 1), Some(0)).unwrap();
    fs::write(host.join("hosts"), "a file\n").unwrap();
    let memory = bed.scratch("users-memory").join("pods/uid/volumes/kubernetes.io~empty-dir/memory");
    fs::create_dir_all(&memory).unwrap();
    sh(&format!("mount -t tmpfs -o size=1m,mode=1777 none {}", memory.display()));
    let pod = bed.pod(pod_with(mapped())).await;
    let mut read_only = volume(&data, "/read-only");
    read_only.readonly = true;
    let mut config = with("sleep 3600", mapped());
    let mut of_image = volume(Path::new(""), "/image");
    of_image.image = Some(image(BUSYBOX));
    config.mounts =
        vec![volume(&data, "/data"), read_only, volume(&host.join("hosts"), "/etc/hosts"), of_image];
    let container = pod.start(config).await;
    assert_eq!(
        container.exec("cd /data; stat -c '%u:%g' . roots apps foreign /etc/hosts /image/bin/busybox").await,
        "0:0\n0:0\n1234:567\n65534:0\n0:0\n0:0\n"
    );
    container
        .exec(
            "cd /data && cat roots && echo more >>roots && echo new >new && mkdir dir && ln -s new link && \
               touch /data/given && chown 33:44 given && echo more >>/etc/hosts",
        )
        .await;
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(data.join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    for name in ["roots", "new", "dir", "link"] {
        assert_eq!(owner(name), (0, 0), "{name}");
    }
    assert_eq!(owner("given"), (33, 44));
    assert_eq!(fs::read_to_string(data.join("roots")).unwrap(), "of the hostmore\n");
    for line in ["touch /read-only/new", "echo x >/data/foreign", "touch /image/new"] {
        fails(&container, line).await;
    }
    step("a user of the container");
    let mut config = with("touch /data/dir/refused; echo x >/data/apps && touch /data/open/mine", mapped());
    fs::create_dir(data.join("open")).unwrap();
    fs::set_permissions(data.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    config.mounts = vec![volume(&data, "/data")];
    security(&mut config).run_as_user = Some(cri::Int64Value { value: 1234 });
    let (user, status) = pod.complete(config).await;
    assert_eq!(status.exit_code, 0, "{}", user.text());
    assert!(!data.join("dir/refused").exists());
    assert_eq!(owner("open/mine"), (1234, 1234));

    step("in memory");
    let mut config = with("stat -c '%u:%g %a' /m && touch /m/x && stat -c %u /m/x", mapped());
    config.mounts = vec![volume(&memory, "/m")];
    let (in_memory, _) = pod.complete(config).await;
    assert_eq!(in_memory.text(), "0:0 1777\n0\n");

    step("a file system without mapped ids, and ids that are not the pod's");
    let mut config = with("true", mapped());
    config.mounts = vec![volume(Path::new("/sys/kernel"), "/sysfs")];
    expect_code(pod.try_create(config).await, &[Code::FailedPrecondition], &["/sysfs", "file system"]);
    let mut config = with("true", mapped());
    let mut other = volume(&data, "/other");
    other.uid_mappings = range(0, FIRST + 1, LENGTH);
    config.mounts = vec![other];
    expect_code(pod.try_create(config).await, &[Code::InvalidArgument], &["/other"]);
    pod.remove().await;
    sh(&format!("umount {}", memory.display()));
    assert_eq!(owner("new"), (0, 0));
}

/// Each is refused with its reason, and nothing is left.
pub async fn refused(bed: Arc<Bed>) {
    let two = [range(0, 1000, 10), range(10, 3000, 10)].concat();
    for (mode, ids, word) in [
        (cri::NamespaceMode::Pod, vec![], "exactly one"),
        (cri::NamespaceMode::Pod, two, "exactly one"),
        (cri::NamespaceMode::Pod, range(1, 1000, 10), "with 0"),
        (cri::NamespaceMode::Pod, range(0, 0, 10), "host_id"),
        (cri::NamespaceMode::Pod, range(0, 1000, 0), "length"),
        (cri::NamespaceMode::Pod, range(0, u32::MAX, u32::MAX), "highest"),
        (cri::NamespaceMode::Node, range(0, 1000, 10), "NODE"),
        (cri::NamespaceMode::Container, vec![], "CONTAINER"),
        (cri::NamespaceMode::Target, vec![], "TARGET"),
    ] {
        let config = bed.with_logs(pod_with(options(mode, ids)));
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        expect_code(bed.client.runtime().run_pod_sandbox(request).await, &[Code::InvalidArgument], &[word]);
    }
    let pod = bed.pod(pod_with(options(cri::NamespaceMode::Node, vec![]))).await;
    let config = with("tr -s ' ' </proc/self/uid_map", options(cri::NamespaceMode::Node, vec![]));
    let (container, _) = pod.complete(config).await;
    assert_eq!(container.text(), " 0 0 4294967295\n");
    expect_code(pod.try_create(with("true", mapped())).await, &[Code::InvalidArgument], &["its pod's"]);
}
