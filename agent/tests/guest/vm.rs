//! A guest under QEMU.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use husk_proto::READY_PORT;
use tempfile::TempDir;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::pod::Pod;

/// The guest's context id on the host's vsock.
pub const CID: u32 = 42;

/// The serials of the guest's disks.
pub const IMAGE: &str = "husk-image";
pub const ODD_IMAGE: &str = "husk-odd";
pub const SCRATCH: &str = "husk-scratch";

/// The guest's two interfaces.
pub const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

pub struct Guest {
    qemu: Child,
    directory: TempDir,
    pub boot_time: Duration,
}

impl Guest {
    pub async fn boot() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let kernel = root.join("target/guest/vmlinux");
        assert!(kernel.exists(), "there is no {}; run guest-kernel/build", kernel.display());
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        run(Command::new(root.join("guest-kernel/initramfs"))
            .args([env!("CARGO_BIN_EXE_husk-agent"), &at("initramfs")]));
        image(directory.path(), "image", ordinary_tree);
        image(directory.path(), "odd", odd_tree);
        run(Command::new("truncate").args(["-s", "512M", &at("scratch")]));
        run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F", &at("scratch")]));

        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, READY_PORT)).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-cpu", "host"])
            .args([
                "-M",
                "microvm,accel=kvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off",
            ])
            .args([
                "-smp",
                "1",
                "-m",
                "256M",
                "-kernel",
                &kernel.display().to_string(),
                "-initrd",
                &at("initramfs"),
            ])
            .args([
                "-append",
                "console=ttyS0 quiet pci=off panic=-1",
                "-serial",
                &format!("file:{}", at("console")),
            ])
            .args([
                "-device",
                &format!("vhost-vsock-device,guest-cid={CID}"),
                "-device",
                "virtio-rng-device",
            ]);
        for (name, serial, read_only) in
            [("image", IMAGE, "on"), ("odd", ODD_IMAGE, "on"), ("scratch", SCRATCH, "off")]
        {
            qemu.args([
                "-drive",
                &format!("if=none,id={name},file={},format=raw,readonly={read_only}", at(name)),
            ])
            .args(["-device", &format!("virtio-blk-device,drive={name},serial={serial}")]);
        }
        for (number, mac) in MACS.iter().enumerate() {
            qemu.args(["-netdev", &format!("user,id=net{number},restrict=on")])
                .args(["-device", &format!("virtio-net-device,netdev=net{number},mac={mac}")]);
        }
        let begun = Instant::now();
        let mut qemu = qemu.stdin(Stdio::null()).spawn().expect("QEMU starts");
        let ready = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
        let boot_time = begun.elapsed();
        match ready {
            Ok(Ok((_, peer))) => assert_eq!(peer.cid(), CID),
            other => {
                let _ = qemu.kill();
                panic!(
                    "the guest is not ready: {other:?}\n{}",
                    std::fs::read_to_string(at("console")).unwrap_or_default()
                );
            }
        }
        Self { qemu, directory, boot_time }
    }

    /// What the guest has written to its console.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Has the guest power off.
    pub async fn shut_down(&mut self, pod: &Pod) -> bool {
        let _ = pod.agent().shutdown(husk_proto::agent::ShutdownRequest {}).await;
        for _ in 0..100 {
            if let Ok(Some(status)) = self.qemu.try_wait() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
}

fn image(directory: &Path, name: &str, fill: fn(&Path)) {
    let tree = directory.join(format!("{name}.tree"));
    std::fs::create_dir(&tree).unwrap();
    fill(&tree);
    let output: PathBuf = directory.join(name);
    run(Command::new("mkfs.erofs").arg("--quiet").arg(output).arg(tree).stderr(Stdio::null()));
}

/// busybox, with two users, and without the mount points that a container needs.
fn ordinary_tree(tree: &Path) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    for directory in ["bin", "etc", "home/app"] {
        std::fs::create_dir_all(tree.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox-static is installed");
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    let put = |name: &str, text: &str| std::fs::write(tree.join(name), text).unwrap();
    put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n");
    put("etc/group", "root:x:0:\napp:x:1000:\nweb:x:33:app\n");
    put("bin/not-executable", "#!/bin/sh\n");
    put("bin/not-a-program", "\x7fELF\x02 but not really\n");
    std::fs::set_permissions(tree.join("bin/not-a-program"), PermissionsExt::from_mode(0o755)).unwrap();
}

/// A tree that wants out of its root.
fn odd_tree(tree: &Path) {
    use std::os::unix::fs::symlink;
    ordinary_tree(tree);
    std::fs::remove_file(tree.join("etc/passwd")).unwrap();
    symlink("/../../../../../../run/husk/etc/hostname", tree.join("etc/passwd")).unwrap();
    symlink("/run/husk", tree.join("up")).unwrap();
    symlink("../../../../../../dev", tree.join("dev")).unwrap();
    symlink("/run/husk/etc/hosts", tree.join("etc/hosts")).unwrap();
}
