//! Block slots.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use husk_vmm::config::slot_serial;
use husk_vmm::control::Request;

use crate::Test;
use crate::machine::{Machine, wait_for};

pub const TESTS: &[Test] = &[
    ("media come and go", media_come_and_go),
    ("a read-only medium stays as it is", read_only),
    ("a scratch disk holds a file system and gives space back", scratch),
    ("bad attachments are refused", bad_attachments),
    ("a disk can be taken away in the middle of its use", taken_away),
];

/// Bytes.
pub const MIB: usize = 1 << 20;

/// A file of the host's.
pub fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Bytes that no two sectors have in common.
pub fn content(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// The guest's name of a slot: "vda".
pub fn device(machine: &Machine, slot: u8) -> String {
    let serial = slot_serial(slot);
    let find = format!(
        "busybox grep -lx {serial} /sys/block/vd*/serial || busybox grep -l {serial} /sys/block/vd*/serial"
    );
    machine.output(&find).split('/').nth(3).unwrap().to_owned()
}

/// Waits until the guest sees the slot with `bytes` bytes.
pub fn wait_for_size(machine: &Machine, device: &str, bytes: usize) {
    wait_for("the new size", || {
        let sectors: usize =
            machine.output(&format!("busybox cat /sys/block/{device}/size")).parse().unwrap();
        (sectors * 512 == bytes).then_some(())
    });
}

fn media_come_and_go() {
    let machine = Machine::boot();
    let device = device(&machine, 1);
    wait_for_size(&machine, &device, 0);
    // One a vCPU that there may be.
    assert_eq!(machine.output(&format!("busybox ls /sys/block/{device}/mq | busybox wc -l")), "3");
    let sum = |skip: usize, bytes: usize| {
        machine.output(&format!(
            "busybox dd if=/dev/{device} bs=1k skip={} count={} 2>/dev/null | busybox md5sum",
            skip / 1024,
            bytes / 1024
        ))
    };
    for round in 0..3 {
        let (first, second) = (content(3 * MIB + round * 4096), content(5 * MIB));
        machine.attach(1, true, &[&file(&first), &file(&second)]).unwrap();
        wait_for_size(&machine, &device, first.len() + second.len());
        let whole = [first, second].concat();
        let expected = |bytes: &[u8]| {
            let mut child = std::process::Command::new("md5sum")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(bytes).unwrap();
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
        };
        assert_eq!(sum(0, whole.len()), expected(&whole));
        assert_eq!(sum(3 * MIB - 1024, 8192), expected(&whole[3 * MIB - 1024..][..8192]));
        machine.request(&Request::Detach { slot: 1 }, &[]).unwrap();
        wait_for_size(&machine, &device, 0);
    }
    assert!(machine.statistics().block_read_bytes as usize >= 3 * 8 * MIB);
}

fn read_only() {
    let machine = Machine::boot();
    let device = device(&machine, 0);
    let disk = file(&content(MIB));
    machine.attach(0, true, &[&disk]).unwrap();
    wait_for_size(&machine, &device, MIB);
    let write = format!("busybox dd if=/dev/zero of=/dev/{device} bs=4k count=1 conv=fsync");
    let (status, output) = machine.shell(&write);
    assert_ne!(status, 0, "{output}");
    let mut after = vec![0; MIB];
    disk.read_exact_at(&mut after, 0).unwrap();
    assert!(after == content(MIB));
    assert!(machine.statistics().block_errors > 0);
}

fn scratch() {
    let machine = Machine::boot();
    let device = device(&machine, 2);
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(64 * MIB as u64).unwrap();
    let status = std::process::Command::new("mkfs.ext4")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-F"])
        .arg(disk.path())
        .status();
    assert!(status.unwrap().success());
    machine.attach(2, false, &[disk.as_file()]).unwrap();
    wait_for_size(&machine, &device, 64 * MIB);
    machine.output(&format!("busybox mount -t ext4 /dev/{device} /mnt"));
    machine.output("busybox dd if=/dev/urandom of=/mnt/file bs=64k count=400 2>/dev/null; busybox sync");
    let blocks = || disk.as_file().metadata().unwrap().blocks() * 512;
    let full = blocks();
    assert!(full >= 25 << 20, "{full}");
    let sum = machine.output("busybox md5sum </mnt/file");
    machine.output("echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(machine.output("busybox md5sum </mnt/file"), sum);
    machine.output("busybox rm /mnt/file; busybox sync; busybox fstrim /mnt");
    assert!(blocks() < full / 2, "{} of {full}", blocks());
    machine.output("busybox umount /mnt");
    machine.request(&Request::Detach { slot: 2 }, &[]).unwrap();
    let check = std::process::Command::new("e2fsck")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-f", "-n"])
        .arg(disk.path())
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    assert!(machine.statistics().block_write_bytes >= 25 << 20);
}

fn bad_attachments() {
    let machine = Machine::boot_changed(|config| config.fs_tag = None);
    let disk = file(&[0; 4096]);
    let refused = |result: Result<_, husk_vmm::control::client::ControlError>, word: &str| {
        let error = result.expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(machine.attach(3, true, &[&disk]), "no block slot 3; the VM has 3");
    refused(machine.attach(0, true, &[]), "at least one extent");
    refused(machine.request(&Request::AttachFs, &[disk.as_fd()]), "no file system device (fs_tag)");
    refused(machine.request(&Request::Detach { slot: 0 }, &[]), "block slot 0 is empty");
    let read_only = File::open("/proc/self/exe").unwrap();
    refused(machine.attach(0, false, &[&read_only]), "not open for reading and writing");
    machine.attach(0, false, &[&disk]).unwrap();
    refused(machine.attach(0, false, &[&disk]), "holds a medium already");
    machine.request(&Request::Detach { slot: 0 }, &[]).unwrap();
    machine.attach(0, false, &[&disk]).unwrap();
}

fn taken_away() {
    let machine = Machine::boot();
    let device = device(&machine, 0);
    let disk = file(&content(8 * MIB));
    for _ in 0..5 {
        machine.attach(0, false, &[&disk]).unwrap();
        wait_for_size(&machine, &device, 8 * MIB);
        let copy = format!(
            "for i in 1 2 3; do busybox dd if=/dev/{device} of=/dev/null bs=64k & \
             busybox dd if=/dev/zero of=/dev/{device} bs=64k & done; wait"
        );
        std::thread::scope(|scope| {
            let work = scope.spawn(|| machine.shell(&copy));
            std::thread::sleep(std::time::Duration::from_millis(30));
            machine.request(&Request::Detach { slot: 0 }, &[]).unwrap();
            work.join().unwrap();
        });
    }
    assert_eq!(machine.output("echo alive"), "alive");
}
