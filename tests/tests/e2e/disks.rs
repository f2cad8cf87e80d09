//! Containers of disk images: a machine's disk is the container's root.

use std::path::PathBuf;
use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{Bed, container, expect_code, image, pod, sh, step};
use tonic::Code;

use crate::node::command_line::{Own, stderr, stdout};

const DISK: &str = "docker.io/husk/disk:latest";
const PARTITION: &str = "io.husk.disk.partition";
const SCRATCH: &str = "io.husk.scratch.mib";

/// A disk that tests/images/disks makes, with the scheme of `husk run`.
fn disk(bed: &Bed, name: &str) -> String {
    format!("disk:{}", bed.paths.disks().join(name).display())
}

/// A container of that image that runs what the image says.
fn machine(partition: Option<&str>) -> cri::ContainerConfig {
    let mut config = container("machine", "");
    config.command = Vec::new();
    config.image = Some(image(DISK));
    config.annotations = partition.map(|name| (PARTITION.to_owned(), name.to_owned())).into_iter().collect();
    config
}

async fn pull(bed: &Bed) -> cri::Image {
    bed.registry.push(&bed.paths.disks().join("layout"), "disk", "husk/disk:latest");
    bed.client.pull(DISK).await.expect("PullImage");
    bed.client.image(DISK).await.expect("ImageStatus")
}

/// A containerDisk from the registry: its own init runs; it is written to, and the image stays as it was.
pub async fn container_disk(bed: Arc<Bed>) {
    let image = pull(&bed).await;
    assert!((100_000..100 << 20).contains(&image.size), "{} bytes", image.size);
    let pod = bed.pod(pod("disk")).await;
    let first = pod.start(machine(None)).await;
    first.wait_log("the init of the system partition runs as process 1").await;

    step("its root can be written to, and is its own");
    assert_eq!(first.exec("mount | grep -c '^overlay on / '").await, "1\n");
    let change = "rm /bin/vi; echo changed >/etc/release; dd if=/dev/zero of=/big bs=1M count=80 2>/dev/null; \
                  chown 7:8 /etc/passwd; stat -c '%u:%g %s' /etc/passwd /big";
    assert_eq!(first.exec(change).await, "7:8 30\n0:0 83886080\n");
    let second = pod.start(machine(None)).await;
    second.wait_log("the init of the system partition").await;
    assert_eq!(
        second
            .exec("cat /etc/release; stat -c %u /etc/passwd; ls /bin/vi /big 2>&1; true")
            .await
            .lines()
            .last(),
        Some("/bin/vi")
    );
    assert_eq!(first.exec("cat /etc/release").await, "changed\n");

    step("they end as their init does");
    second.stop(10).await;
    second.wait_log("the init ends").await;
    second.remove().await;
    first.stop(10).await;
    first.remove().await;

    step("the slot holds another image next, and the disk again after it");
    assert_eq!(pod.output("cat /proc/partitions | grep -c 'vd[a-z][0-9]'; true").await, "0\n");
    let again = pod.start(machine(None)).await;
    again.wait_log("the init of the system partition").await;
    assert_eq!(again.exec("stat -c %u /etc/passwd").await, "0\n");
}

/// By number and by both kinds of label, two partitions of one disk at once; and what cannot be a root.
pub async fn partitions(bed: Arc<Bed>) {
    pull(&bed).await;
    let mut config = pod("partitions");
    // The pod's annotation is for the containers that have none.
    config.annotations.insert(PARTITION.into(), "boot".into());
    config.annotations.insert(SCRATCH.into(), "200".into());
    let pod = bed.pod(config).await;
    let mut running = Vec::new();
    for (name, expected) in [
        (None, "boot"),
        (Some("2"), "boot"),
        (Some("system"), "system"),
        (Some("small-root"), "system"),
        (Some("small-boot"), "boot"),
        (Some(""), "system"),
    ] {
        step(format!("{name:?}"));
        let container = pod.start(machine(name)).await;
        container.wait_log(&format!("the init of the {expected} partition")).await;
        running.push(container);
    }
    step("the root is as large as was asked for");
    let size = running[0].exec("df -m / | tail -n 1 | awk '{print $2}'").await;
    assert!(size.trim().parse().is_ok_and(|mib: u64| (150..=200).contains(&mib)), "{size} MiB");
    for name in ["4", "empty", "9", "0", "absent", "loader"] {
        step(name);
        expect_code(
            pod.try_create(machine(Some(name))).await,
            &[Code::FailedPrecondition],
            &["small-root", "boot"],
        );
    }
    expect_code(pod.try_create(machine(Some("a\nb"))).await, &[Code::InvalidArgument], &[PARTITION]);
    for container in running {
        container.remove().await;
    }
    assert_eq!(pod.output("grep -c 'vd[a-z][0-9]' /proc/partitions; true").await, "0\n");
}

/// From files: raw with an MBR, qcow2 without partitions; and files that are no disks.
pub async fn from_files(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let line = "cat /etc/release; touch /written && echo writable";
    for name in ["small.raw", "whole.qcow2", "small.qcow2"] {
        step(name);
        let output = own.husk(&["run", "--network", "none", &disk(&bed, name), "/bin/sh", "-c", line]);
        assert_eq!(stdout(&output), "the system partition\nwritable\n", "{}", stderr(&output));
        own.check_clean();
    }
    let boot = ["run", "--network", "none", "--partition", "2"];
    let output = own.husk(&[&boot[..], &[&disk(&bed, "small.qcow2"), "/bin/cat", "/etc/release"]].concat());
    assert_eq!(stdout(&output), "the boot partition\n", "{}", stderr(&output));

    step("what is no disk, and what would read the host");
    let dir = bed.scratch("disks");
    let overlay = dir.join("overlay.qcow2");
    let made = "qemu-img create -q -f qcow2 -u -F raw -b /etc/shadow";
    sh(&format!("{made} {} 1M; head -c 1M /dev/zero >{}", overlay.display(), dir.join("zero").display()));
    let cases: [(PathBuf, &str); 3] = [
        (overlay, "has a backing file"),
        (dir.join("absent"), "is not known"),
        (dir.join("zero"), "no file system"),
    ];
    for (path, says) in cases {
        let output = own.husk(&["run", "--network", "none", &format!("disk:{}", path.display()), "/bin/sh"]);
        assert!(output.status.code().is_some_and(|code| (125..=127).contains(&code)), "{}", stderr(&output));
        assert!(stderr(&output).contains(says), "{says}: {}", stderr(&output));
        own.check_clean();
    }
}

/// A real distribution: Debian, as debootstrap and qemu-img made it, answers over exec.
pub async fn debian(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let line = "cat /etc/debian_version; readlink -f /sbin/init; dpkg --audit && dpkg-query -W -f='${Status}\\n' \
                systemd; echo 'export A=1' >/etc/profile.d/a.sh && . /etc/profile.d/a.sh && echo $A; \
                stat -c '%a' /usr/bin/passwd";
    let output =
        own.husk(&["run", "--network", "none", &disk(&bed, "debian.qcow2"), "/bin/bash", "-c", line]);
    let (text, errors) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{text}{errors}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.first().is_some_and(|version| version.starts_with("12.")), "{text}");
    assert_eq!(lines[1..], ["/usr/lib/systemd/systemd", "install ok installed", "1", "4755"], "{text}");
    own.check_clean();
}
