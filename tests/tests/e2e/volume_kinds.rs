//! Volumes that are no directory of the host: images, memory of the guest, block devices.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{BUSYBOX, Bed, Container, Pod, container, expect_code, image, pod, sh, step};
use tonic::Code;

/// Directories, and links that lead out of them.
const VOLUME: &str = "docker.io/husk/volume:latest";
const KUBELET: &str = "pods/uid/volumes/kubernetes.io~empty-dir";
const MIB: u64 = 1 << 20;
/// Lines of /proc/partitions for the scratch disk and the busybox image.
const USUAL_DISKS: &str = "2\n";

fn with(line: &str, mounts: Vec<cri::Mount>) -> cri::ContainerConfig {
    cri::ContainerConfig { mounts, ..container("kinds", line) }
}

fn of_image(name: &str, sub_path: &str, inside: &str) -> cri::Mount {
    cri::Mount {
        container_path: inside.into(),
        image: Some(image(name)),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

fn of_host(host: &Path, inside: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: inside.into(), ..Default::default() }
}

fn privileged(mut config: cri::ContainerConfig) -> cri::ContainerConfig {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    config
}

async fn fails(container: &Container, line: &str) -> String {
    let outcome = container.try_exec(&["sh", "-c", line], 30).await.expect("ExecSync");
    assert_ne!(outcome.exit_code, 0, "{line} must fail");
    String::from_utf8_lossy(&outcome.stderr).into_owned()
}

async fn disks(pod: &Pod) -> String {
    pod.output("grep -c 'vd[a-z]' /proc/partitions; true").await
}

async fn remove_image(bed: &Bed, name: &str) -> Result<(), tonic::Status> {
    let request = cri::RemoveImageRequest { image: Some(image(name)) };
    bed.client.images().remove_image(request).await.map(drop)
}

/// Whole and in part, of another image and of the container's own; nobody writes, no path leads out.
pub async fn images(bed: Arc<Bed>) {
    bed.client.pull(VOLUME).await.expect("PullImage");
    let pod = bed.pod(pod("images")).await;
    let writable = of_image(VOLUME, "", "/whole");
    assert!(!writable.readonly);
    let mounts = vec![
        writable,
        of_image(VOLUME, "data/deep", "/deep"),
        of_image(VOLUME, "to-deep", "/linked"),
        of_image(VOLUME, "data/file", "/one/file"),
        of_image(BUSYBOX, "etc", "/own"),
    ];
    let first = pod.start(privileged(with("sleep 3600", mounts))).await;
    assert_eq!(
        first.exec("cat /whole/data/file /deep/below /linked/below /one/file").await,
        "file\nbelow\nbelow\nfile\n"
    );
    assert_eq!(first.exec("ls /deep; grep -c root: /own/passwd").await, "below\n1\n");
    step("one slot for each image");
    assert_eq!(first.exec("grep -c 'vd[a-z]' /proc/partitions").await, "3\n");

    step("nobody writes");
    for line in [
        "touch /whole/new",
        "echo x >/whole/data/file",
        "rm /deep/below",
        "mount -o remount,rw /whole && touch /whole/new",
        "mount -o remount,rw,bind /deep && touch /deep/new",
    ] {
        fails(&first, line).await;
    }

    step("no path leads out of the image");
    // The names are those of the guest's own; what is there is the image's.
    for (sub_path, line, expected) in [
        ("../../../..", "cat /v/data/file", "file\n"),
        ("data/../../..", "cat /v/data/file", "file\n"),
        ("out", "cat /v/hosts", "of the image\n"),
        ("absolute", "cat /v/hosts", "of the image\n"),
        ("/run/husk/etc/hosts", "cat /v", "of the image\n"),
    ] {
        let (container, status) = pod.complete(with(line, vec![of_image(VOLUME, sub_path, "/v")])).await;
        assert_eq!((status.exit_code, container.text().as_str()), (0, expected), "{sub_path}");
        container.remove().await;
    }
    for (sub_path, code) in [
        ("absent", Code::FailedPrecondition),
        ("data/file/x", Code::FailedPrecondition),
        ("proc-root", Code::FailedPrecondition),
        ("round", Code::InvalidArgument),
        ("pipe", Code::InvalidArgument),
    ] {
        let refused = pod.try_create(with("true", vec![of_image(VOLUME, sub_path, "/v")])).await;
        expect_code(refused, &[code], &[sub_path]);
    }

    step("what cannot be");
    const ABSENT: &str = "docker.io/husk/never-pulled:latest";
    let try_mount = async |mount: cri::Mount| pod.try_create(with("true", vec![mount])).await;
    expect_code(try_mount(of_image(ABSENT, "", "/v")).await, &[Code::NotFound], &[ABSENT, "pull"]);
    let both = cri::Mount { host_path: "/tmp".into(), ..of_image(VOLUME, "", "/v") };
    expect_code(try_mount(both).await, &[Code::InvalidArgument], &["/tmp", VOLUME]);
    expect_code(try_mount(of_image(VOLUME, "", "v")).await, &[Code::InvalidArgument], &["\"v\""]);

    step("the image stays as long as a container has it, over a restart of the daemon");
    expect_code(remove_image(&bed, VOLUME).await, &[Code::FailedPrecondition], &[&first.id]);
    bed.daemon.kill();
    bed.daemon.start().await;
    expect_code(remove_image(&bed, VOLUME).await, &[Code::FailedPrecondition], &[&first.id]);
    assert_eq!(first.exec("cat /whole/data/file").await, "file\n");
    let second = pod.start(with("sleep 3600", vec![of_image(VOLUME, "data", "/data")])).await;
    first.remove().await;
    assert_eq!(second.exec("cat /data/file").await, "file\n");
    expect_code(remove_image(&bed, VOLUME).await, &[Code::FailedPrecondition], &[&second.id]);
    second.remove().await;
    assert_eq!(disks(&pod).await, USUAL_DISKS);
    remove_image(&bed, VOLUME).await.expect("RemoveImage of an image that nobody uses");
    assert!(bed.client.image(VOLUME).await.is_none());
}

/// A tmpfs of kubelet's below `top`, and its end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(top: &Path, name: &str, kind: &str, options: &str) -> Tmpfs {
        Tmpfs::mount_at(top.join(KUBELET).join(name), kind, options)
    }

    fn mount_at(path: PathBuf, kind: &str, options: &str) -> Tmpfs {
        fs::create_dir_all(&path).expect("make a directory");
        sh(&format!("mount -t {kind} -o {options} none '{}'", path.display()));
        Tmpfs(path)
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).expect("list").next().is_none()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        sh(&format!("umount --lazy '{}'", self.0.display()));
    }
}

/// What kubelet mounts as memory is the guest's, with its limit, mode and group, and as long as the pod.
pub async fn memory(bed: Arc<Bed>) {
    let top = bed.scratch("kubelet");
    let cache = Tmpfs::mount(&top, "cache", "tmpfs", "size=8m,mode=2770,gid=4321");
    let pod = bed.pod(pod("memory")).await;
    let writer = pod.start(with("sleep 3600", vec![of_host(&cache.0, "/cache")])).await;
    assert_eq!(writer.exec("stat -f -c %T /cache; stat -c '%a %u:%g' /cache").await, "tmpfs\n2770 0:4321\n");
    assert_eq!(writer.exec("df -k /cache | tail -n 1 | awk '{print $2}'").await, "8192\n");
    writer.exec("echo kept >/cache/kept").await;

    step("shared by the pod's containers");
    let read_only = cri::Mount { readonly: true, ..of_host(&cache.0, "/other") };
    let reader = pod.start(with("sleep 3600", vec![read_only])).await;
    assert_eq!(reader.exec("cat /other/kept").await, "kept\n");
    fails(&reader, "touch /other/new").await;

    step("the limit is the guest's to enforce");
    let said = fails(&writer, "dd if=/dev/zero of=/cache/big bs=1M count=9").await;
    assert!(said.contains("No space left"), "{said}");
    writer.exec("rm /cache/big").await;

    step("a directory of it that kubelet mounts elsewhere is of the same memory");
    let part = top.join("volume-subpaths");
    fs::create_dir_all(&part).expect("make a directory");
    sh(&format!(
        "mkdir -m 0750 '{0}/sub' && mount --bind '{0}/sub' '{1}'",
        cache.0.display(),
        part.display()
    ));
    // The group's bit is the parent's.
    let line = "stat -c %a /part; echo part >/part/here";
    let (third, status) = pod.complete(with(line, vec![of_host(&part, "/part")])).await;
    sh(&format!("umount '{}' && rmdir '{}/sub'", part.display(), cache.0.display()));
    assert_eq!((status.exit_code, third.text().as_str()), (0, "2750\n"));
    assert_eq!(writer.exec("cat /cache/sub/here").await, "part\n");

    step("it outlives its containers, and the daemon");
    for container in [writer, reader, third] {
        container.remove().await;
    }
    assert!(cache.is_empty(), "something was written on the host");
    bed.daemon.kill();
    bed.daemon.start().await;
    let (late, _) = pod.complete(with("cat /late/kept", vec![of_host(&cache.0, "/late")])).await;
    assert_eq!(late.text(), "kept\n");
    assert!(cache.is_empty(), "something was written on the host");

    step("one that has files on the host is shared with it");
    let full = Tmpfs::mount(&top, "full", "tmpfs", "size=1m");
    fs::write(full.0.join("file"), "of the host\n").expect("write");
    let line = "cat /full/file; echo back >/full/back";
    let (shared, status) = pod.complete(with(line, vec![of_host(&full.0, "/full")])).await;
    assert_eq!((status.exit_code, shared.text().as_str()), (0, "of the host\n"));
    assert_eq!(fs::read_to_string(full.0.join("back")).expect("read"), "back\n");

    step("huge pages are the guest's");
    let huge = Tmpfs::mount(&top, "huge", "hugetlbfs", "pagesize=2M");
    let line = "fallocate -l 12m /huge/fits && ! fallocate -o 12m -l 16m /huge/fits 2>/dev/null; \
                grep HugePages_Total /proc/meminfo; cat /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb.2MB.current";
    let mut config = with(line, vec![of_host(&huge.0, "/huge")]);
    let of = |size: &str, mib: u64| cri::HugepageLimit { page_size: size.into(), limit: mib * MIB };
    let limits = |all| cri::LinuxContainerResources { hugepage_limits: all, ..Default::default() };
    config.linux.get_or_insert_default().resources = Some(limits(vec![of("2MB", 16), of("1GB", 0)]));
    let (told, _) = pod.complete(config).await;
    let text = told.text();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[..3], ["HugePages_Total:", "8", "16777216"], "{words:?}");
    assert!(words[3].parse::<u64>().is_ok_and(|bytes| (12 * MIB..=16 * MIB).contains(&bytes)), "{words:?}");
    assert!(huge.is_empty(), "something was written on the host");
    let mut config = with("true", Vec::new());
    config.linux.get_or_insert_default().resources = Some(limits(vec![of("1GB", 1024)]));
    expect_code(pod.try_create(config).await, &[Code::Unimplemented], &["1GB"]);
    // Those of the host itself are none of a pod's.
    let foreign = Tmpfs::mount_at(bed.scratch("elsewhere"), "hugetlbfs", "pagesize=2M");
    let refused = pod.try_create(with("true", vec![of_host(&foreign.0, "/huge")])).await;
    expect_code(refused, &[Code::Unimplemented], &["/huge", "HugePages"]);
    pod.remove().await;
    assert!(cache.is_empty(), "something was written on the host");
}

/// A block device of the host, and its end.
struct Loop {
    path: String,
    file: PathBuf,
}

impl Loop {
    fn new(dir: &Path, mib: u64) -> Loop {
        let file = dir.join("disk");
        fs::File::create(&file).and_then(|file| file.set_len(mib * MIB)).expect("make a file");
        let path = sh(&format!("losetup --find --show '{}'", file.display())).trim().to_owned();
        Loop { path, file }
    }

    fn device(&self, inside: &str, permissions: &str) -> cri::Device {
        device(&self.path, inside, permissions)
    }

    /// What the host's side of the device has at `at`.
    fn bytes(&self, at: u64) -> String {
        let mut bytes = [0; 8];
        fs::File::open(&self.path)
            .and_then(|file| file.read_exact_at(&mut bytes, at))
            .expect("read the device");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        sh(&format!("losetup --detach {} && rm '{}'", self.path, self.file.display()));
    }
}

fn device(host: &str, inside: &str, permissions: &str) -> cri::Device {
    cri::Device { host_path: host.into(), container_path: inside.into(), permissions: permissions.into() }
}

fn having(devices: Vec<cri::Device>) -> cri::ContainerConfig {
    cri::ContainerConfig { devices, ..container("devices", "sleep 3600") }
}

/// What the VMM has open.
async fn open_files(pod: &Pod) -> String {
    let dir = format!("/proc/{}/fd", pod.vmm().await);
    let links = fs::read_dir(dir).expect("list").flatten().map(|entry| fs::read_link(entry.path()));
    links.flatten().map(|path| format!("{}\n", path.display())).collect()
}

/// Written by one container, read by another and by the host; gone from the VM with the last of them.
pub async fn block_device(bed: Arc<Bed>) {
    let dir = bed.scratch("loop");
    let disk = Loop::new(&dir, 16);
    sh(&format!("chown 12:34 {0} && chmod 640 {0}", disk.path));
    let (pod, other) = (bed.pod(pod("device")).await, bed.pod(pod("other")).await);
    let first = pod.start(having(vec![disk.device("/dev/xvda", "rwm")])).await;
    let second = pod.start(having(vec![disk.device("/data/raw", "rw")])).await;
    let looked = "stat -c '%F %a %u:%g' /dev/xvda; blockdev --getsize64 /dev/xvda";
    assert_eq!(first.exec(looked).await, format!("block special file 640 12:34\n{}\n", 16 * MIB));
    let write = |text: &str, at: u64| {
        format!("printf {text} | dd of=/dev/xvda bs=512 seek={} conv=notrunc", at / 512)
    };
    first.exec(&format!("{},fsync", write("written1", MIB))).await;
    assert_eq!(disk.bytes(MIB), "written1");
    assert_eq!(
        second.exec("dd if=/data/raw bs=512 skip=2048 count=1 2>/dev/null | head -c 8").await,
        "written1"
    );
    assert!(open_files(&pod).await.contains(&disk.path));

    // Its alone: the other container's is what it was.
    first.exec("chmod 600 /dev/xvda").await;
    assert_eq!(second.exec("stat -c %a /data/raw").await, "640\n");

    step("nobody else writes, and nobody writes beside readers");
    for permissions in ["rw", "r"] {
        let refused = other.try_create(having(vec![disk.device("/dev/xvda", permissions)])).await;
        expect_code(refused, &[Code::FailedPrecondition], &[&disk.path, &pod.id]);
    }
    let mixed = pod.try_create(having(vec![disk.device("/dev/xvda", "r")])).await;
    expect_code(mixed, &[Code::FailedPrecondition], &[&disk.path]);

    step("over a restart of the daemon, a file system, and what was not synced");
    // What a tenant writes to it never says what it is: it stays a disk of these bytes.
    first.exec("printf 'QFI\\373\\0\\0\\0\\3' | dd of=/dev/xvda conv=notrunc,fsync").await;
    bed.daemon.kill();
    bed.daemon.start().await;
    second.remove().await;
    let third = pod.start(privileged(having(vec![disk.device("/dev/xvda", "rwm")]))).await;
    let begins = third.exec("blockdev --getsize64 /dev/xvda; od -An -tx1 -N8 /dev/xvda").await;
    assert_eq!(begins, format!("{}\n 51 46 49 fb 00 00 00 03\n", 16 * MIB));
    assert_eq!(third.exec("grep -c xvda /proc/self/mountinfo; true").await, "0\n");
    third.exec("mke2fs /dev/xvda >/dev/null").await;
    third.exec("mkdir /mnt && mount -t ext4 /dev/xvda /mnt && echo kept >/mnt/file").await;
    third.exec("umount /mnt && rm -r /mnt && blkdiscard -o 12582912 -l 1048576 /dev/xvda").await;
    first.exec(&write("written2", 15 * MIB)).await;
    first.remove().await;
    assert!(open_files(&pod).await.contains(&disk.path), "it was taken from the container that is left");
    third.remove().await;
    assert!(!open_files(&pod).await.contains(&disk.path), "the VMM still has it");
    assert_eq!(disks(&pod).await, USUAL_DISKS);
    assert_eq!(disk.bytes(15 * MIB), "written2");
    let mounted = dir.join("mounted");
    sh(&format!("mkdir '{0}' && mount -t ext2 {1} '{0}'", mounted.display(), disk.path));
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("read"), "kept\n");

    step("what is mounted on the host is not written to");
    let refused = pod.try_create(having(vec![disk.device("/dev/xvda", "rw")])).await;
    expect_code(refused, &[Code::FailedPrecondition], &[&disk.path, "mounted"]);
    sh(&format!("umount '{}'", mounted.display()));
    assert_eq!(disks(&pod).await, USUAL_DISKS);
}

/// Two pods read; neither writes, whatever its privileges.
pub async fn read_only_device(bed: Arc<Bed>) {
    let disk = Loop::new(&bed.scratch("loop"), 4);
    sh(&format!("printf original | dd of={} conv=notrunc,fsync 2>/dev/null", disk.path));
    let (pod, other) = (bed.pod(pod("reader")).await, bed.pod(pod("other")).await);
    let readers = [
        pod.start(having(vec![disk.device("/dev/disk", "r")])).await,
        pod.start(privileged(having(vec![disk.device("/dev/disk", "rm")]))).await,
        other.start(having(vec![disk.device("/dev/disk", "r")])).await,
    ];
    for reader in &readers {
        assert_eq!(reader.exec("head -c 8 /dev/disk").await, "original");
        fails(reader, "printf modified | dd of=/dev/disk conv=notrunc,fsync").await;
    }
    // The kernel's own flag goes; the host's does not.
    fails(&readers[1], "blockdev --setrw /dev/disk; printf modified | dd of=/dev/disk conv=notrunc,fsync")
        .await;
    assert_eq!(disk.bytes(0), "original");
    let refused = other.try_create(having(vec![disk.device("/dev/disk", "rw")])).await;
    expect_code(refused, &[Code::FailedPrecondition], &[&disk.path]);

    step("a pod that is gone holds nothing, and the slot takes writes again");
    pod.stop().await;
    readers[2].remove().await;
    let writer = other.start(having(vec![disk.device("/dev/disk", "rw")])).await;
    writer.exec("printf modified | dd of=/dev/disk conv=notrunc,fsync 2>/dev/null").await;
    assert_eq!(disk.bytes(0), "modified");
    other.remove().await;
    pod.remove().await;
}

/// Devices of the guest's own kernel; all others are refused by name.
pub async fn other_devices(bed: Arc<Bed>) {
    let pod = bed.pod(pod("devices")).await;
    let plain = pod.start(having(Vec::new())).await;
    fails(&plain, "ls /dev/fuse /dev/net/tun").await;
    let some = pod
        .start(having(vec![
            device("/dev/fuse", "/dev/fuse", "rwm"),
            device("/dev/net/tun", "/dev/net/tun", "rw"),
            device("/dev/zero", "/data/zeroes", "r"),
            device("/dev/null", "/dev/null", "rwm"),
        ]))
        .await;
    assert_eq!(
        some.exec("(: <>/dev/fuse) && (: <>/dev/net/tun) && head -c 3 /data/zeroes | wc -c").await,
        "3\n"
    );
    fails(&plain, "mknod /tmp/tun c 10 200 && (: <>/tmp/tun)").await;
    for (asked, word) in [
        (device("/dev/kvm", "/dev/kvm", "rw"), "/dev/kvm"),
        (device("/dev", "/dev/host", "rwm"), "directory"),
        (device("/dev/absent", "/dev/absent", "rwm"), "/dev/absent"),
        (device("/etc/passwd", "/dev/passwd", "r"), "/etc/passwd"),
        (device("/dev/fuse", "/dev/fuse", "rx"), "rx"),
        (device("/dev/fuse", "/dev/null", "rw"), "/dev/null"),
    ] {
        expect_code(pod.try_create(having(vec![asked])).await, &[Code::InvalidArgument], &[word]);
    }
    let mut cdi = container("cdi", "true");
    cdi.cdi_devices = vec![cri::CdiDevice { name: "gpu0".into() }];
    expect_code(pod.try_create(cdi).await, &[Code::InvalidArgument], &["gpu0"]);
}
