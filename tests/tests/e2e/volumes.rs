//! Volumes: what is on the host and in the container, from both sides.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, container, pod, sh, step, wait_for};
use tonic::Code;

/// What a guest caches of a directory is old after a second.
const CACHE: Duration = Duration::from_secs(10);

fn volume(host: &Path, inside: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: inside.into(), ..Default::default() }
}

fn with(line: &str, mounts: Vec<cri::Mount>) -> cri::ContainerConfig {
    cri::ContainerConfig { mounts, ..container("volumes", line) }
}

/// A directory, a file, a directory that is made and one behind a link; a ConfigMap's atomic update.
pub async fn seen_from_both_sides(bed: Arc<Bed>) {
    let host = bed.scratch("both");
    fs::create_dir(host.join("data")).unwrap();
    fs::write(host.join("data/from-host"), "hello").unwrap();
    fs::write(host.join("file"), "one file").unwrap();
    symlink("data", host.join("link")).unwrap();
    let config = host.join("config");
    fs::create_dir_all(config.join("..v1")).unwrap();
    fs::write(config.join("..v1/key"), "old").unwrap();
    symlink("..v1", config.join("..data")).unwrap();
    symlink("..data/key", config.join("key")).unwrap();
    let pod = bed.pod(pod("volumes")).await;
    let container = pod
        .start(with(
            "sleep 3600",
            vec![
                volume(&host.join("data"), "/data"),
                volume(&host.join("file"), "/etc/hosts"),
                volume(&host.join("made/deep"), "/data2/deeper"),
                volume(&host.join("link"), "/linked"),
                volume(&config, "/config"),
            ],
        ))
        .await;
    assert_eq!(
        container.exec("cat /data/from-host /linked/from-host /etc/hosts").await,
        "hellohelloone file"
    );
    assert_eq!(container.exec("cat /config/key").await, "old");
    step("what the container writes is on the host, with its owner and mode");
    container
        .exec("echo back >/data/from-guest && chown 1234:567 /data/from-guest && chmod 640 /data/from-guest && \
               touch /data2/deeper/here && echo more >>/etc/hosts && mkdir /data/dir && ln -s x /data/symlink")
        .await;
    let metadata = fs::metadata(host.join("data/from-guest")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777), (1234, 567, 0o640));
    assert_eq!(fs::read_to_string(host.join("data/from-guest")).unwrap(), "back\n");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "one filemore\n");
    assert!(host.join("made/deep/here").exists() && host.join("data/dir").is_dir());
    assert_eq!(fs::read_link(host.join("data/symlink")).unwrap(), PathBuf::from("x"));

    step("an update as kubelet makes it is seen by a running container");
    fs::create_dir(config.join("..v2")).unwrap();
    fs::write(config.join("..v2/key"), "new").unwrap();
    symlink("..v2", config.join("..data_tmp")).unwrap();
    fs::rename(config.join("..data_tmp"), config.join("..data")).unwrap();
    let read = || async { (container.exec("cat /config/key").await == "new").then_some(()) };
    wait_for("the update", CACHE, read).await;

    step("two containers share; the volume outlives one");
    let other = with(
        "cat /shared/from-guest; echo second >/shared/second",
        vec![volume(&host.join("data"), "/shared")],
    );
    let (other, status) = pod.complete(other).await;
    assert_eq!((status.exit_code, other.text().as_str()), (0, "back\n"));
    assert_eq!(status.mounts.first().map(|mount| mount.container_path.as_str()), Some("/shared"));
    other.remove().await;
    assert_eq!(container.exec("cat /data/second").await, "second\n");

    step("a large file comes and goes whole");
    sh(&format!("head -c 20000000 /dev/urandom >{}", host.join("data/large").display()));
    container.exec("cp /data/large /data/copy").await;
    assert!(fs::read(host.join("data/large")).unwrap() == fs::read(host.join("data/copy")).unwrap());
    container.remove().await;
    assert!(host.join("data/from-host").exists(), "removing the container removed what is the host's");
}

/// Read-only holds whatever the guest does; what is mounted below only when asked for.
pub async fn read_only(bed: Arc<Bed>) {
    let host = bed.scratch("read-only");
    fs::create_dir_all(host.join("below")).unwrap();
    fs::write(host.join("file"), "x").unwrap();
    let below = host.join("below");
    sh(&format!("mount -t tmpfs none {}", below.display()));
    let pod = bed.pod(pod("read-only")).await;
    let mut shallow = volume(&host, "/shallow");
    shallow.readonly = true;
    let mut deep = volume(&host, "/deep");
    (deep.readonly, deep.recursive_read_only) = (true, true);
    let mut config = with("sleep 3600", vec![shallow, deep]);
    if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.privileged = true;
    }
    let container = pod.start(config).await;
    for line in [
        "touch /shallow/new",
        "echo y >/shallow/file",
        "rm /shallow/file",
        "touch /deep/new",
        "touch /deep/below/new",
        // The guest's own flag goes; the host's does not.
        "mount -o remount,rw,bind /shallow; touch /shallow/new",
        "mount -o remount,rw,bind /deep; touch /deep/new",
    ] {
        let outcome = container.try_exec(&["sh", "-c", line], 30).await.expect("ExecSync");
        assert_ne!(outcome.exit_code, 0, "{line}");
    }
    container.exec("touch /shallow/below/new").await;
    assert!(below.join("new").exists() && !host.join("new").exists());
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "x");
    pod.remove().await;
    sh(&format!("umount {}", below.display()));
}

/// What is mounted on the host later is seen with HostToContainer alone.
pub async fn propagation(bed: Arc<Bed>) {
    let host = bed.scratch("propagation");
    let later = host.join("later");
    fs::create_dir(&later).unwrap();
    // As an init system leaves it: mounts are handed on.
    sh(&format!("mount --bind {0} {0} && mount --make-shared {0}", host.display()));
    let pod = bed.pod(pod("propagation")).await;
    let mut following = volume(&host, "/following");
    following.set_propagation(cri::MountPropagation::PropagationHostToContainer);
    let container = pod.start(with("sleep 3600", vec![following, volume(&host, "/private")])).await;
    sh(&format!("mount -t tmpfs none {0} && touch {0}/seen", later.display()));
    let seen = || async {
        let listed = container.exec("ls /following/later").await;
        (listed == "seen\n").then_some(())
    };
    wait_for("a mount that is made on the host later", CACHE, seen).await;
    assert_eq!(container.exec("ls /private/later").await, "");

    step("the pod's end leaves the host's mounts alone");
    pod.remove().await;
    assert!(later.join("seen").exists());
    sh(&format!("umount {} && umount {}", later.display(), host.display()));
}

/// Each is refused with its reason, and nothing is left.
pub async fn malformed_requests(bed: Arc<Bed>) {
    let host = bed.scratch("malformed");
    let pod = bed.pod(pod("malformed")).await;
    let mut both = volume(&host, "/x");
    both.set_propagation(cri::MountPropagation::PropagationBidirectional);
    symlink("/nonexistent/target", host.join("dangling")).unwrap();
    for (mount, word) in [
        (volume(&host, "relative"), "relative"),
        (volume(&host, "/a/../../b"), "/a/../../b"),
        (volume(&host, "/"), "root"),
        (volume(Path::new("no/root"), "/x"), "no/root"),
        (volume(&host.join("dangling"), "/x"), "dangling"),
        (both, "Bidirectional"),
    ] {
        let error = pod.try_create(with("true", vec![mount])).await.expect_err(word);
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    step("a failure after the mounts were made takes them away again");
    let mut config = with("true", vec![volume(&host, "/x")]);
    if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.run_as_username = "nobody-by-this-name".into();
    }
    pod.try_create(config).await.expect_err("an unknown user");
    let share = bed.daemon.run.join("pods").join(&pod.id).join("volumes");
    let left: Vec<_> = fs::read_dir(&share).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A guest makes, renames and removes no names in what its volumes lie in, whatever it does there.
pub async fn share_is_sealed(bed: Arc<Bed>) {
    let host = bed.scratch("sealed");
    fs::write(host.join("file"), "mine\n").unwrap();
    let pod = bed.pod(pod("sealed")).await;
    // A file: of a directory the guest's kernel would show that alone below.
    let mut config = with("sleep 3600", vec![volume(&host.join("file"), "/file")]);
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let container = pod.start(config).await;
    // The whole share, as the guest's kernel has it.
    container.exec("mkdir /share && mount -t virtiofs husk /share").await;
    let listed = container.exec(&format!("ls /share /share/{}", container.id)).await;
    assert!(listed.contains(&container.id) && listed.ends_with("0\n"), "{listed}");
    let own = format!("/share/{}", container.id);
    for line in [
        "touch /share/new".to_owned(),
        "ln -s /etc /share/link".to_owned(),
        format!("touch {own}/new"),
        format!("mv {own} /share/moved"),
        format!("mv {own}/0 {own}/1"),
        format!("rm {own}/0"),
        "mount -o remount,rw /share; touch /share/new".to_owned(),
    ] {
        let outcome = container.try_exec(&["sh", "-c", &line], 30).await.expect("ExecSync");
        assert_ne!(outcome.exit_code, 0, "{line}");
    }
    container.exec("echo still >>/file").await;
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "mine\nstill\n");
    container.remove().await;
    pod.remove().await;
    assert!(host.join("file").exists());
}

/// Who removes a volume's directory on the host is not held up by the pod that has it.
pub async fn removed_on_the_host(bed: Arc<Bed>) {
    let host = bed.scratch("removed");
    let directory = host.join("volume");
    fs::create_dir(&directory).unwrap();
    let pod = bed.pod(pod("removed")).await;
    let container = pod.start(with("sleep 3600", vec![volume(&directory, "/data")])).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("{}/volumes", pod.id)), "a volume is mounted on the host");
    fs::remove_dir(&directory).unwrap();
    container.exec("true").await;
    container.remove().await;
    pod.remove().await;
}

/// A killed daemon's pod keeps its volumes, and its next containers get theirs.
pub async fn after_a_restart(bed: Arc<Bed>) {
    let host = bed.scratch("restart");
    fs::write(host.join("file"), "kept\n").unwrap();
    let pod = bed.pod(pod("restart")).await;
    let container = pod.start(with("sleep 3600", vec![volume(&host, "/data")])).await;
    bed.daemon.kill();
    bed.daemon.start().await;
    assert_eq!(container.exec("cat /data/file").await, "kept\n");
    let (second, status) = pod.complete(with("cat /again/file", vec![volume(&host, "/again")])).await;
    assert_eq!((status.exit_code, second.text().as_str()), (0, "kept\n"));
    container.remove().await;
    pod.remove().await;
    assert!(host.join("file").exists());
}
