//! A disk that does not answer: a file of a file system of the host's that is frozen.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use husk_vmm::control::Request;

use crate::Test;
use crate::disks::{MIB, content, device, file, wait_for_size};
use crate::machine::{Machine, wait_for};

pub const TESTS: &[Test] = &[("a disk that does not answer holds up no other", no_answer)];

fn run(program: &str, arguments: &[&str]) {
    let output =
        Command::new(program).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
}

/// A mounted file system that can be frozen.
struct FileSystem {
    dir: tempfile::TempDir,
}

impl FileSystem {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(64 * MIB as u64).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        let this = Self { dir };
        fs::create_dir(this.place()).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), this.place().to_str().unwrap()]);
        this
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze", self.place().to_str().unwrap()]);
        Frozen(self)
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        // A test that went well has done it.
        let _ = Command::new("umount").arg(self.place()).output();
    }
}

/// Thawed when it is dropped, lest a failed test never ends.
struct Frozen<'a>(&'a FileSystem);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["--unfreeze", self.0.place().to_str().unwrap()]);
    }
}

/// Waits until a thread of the VMM waits for the disk, as only such threads do.
fn wait_for_waiter(machine: &Machine) {
    let tasks = format!("/proc/{}/task", machine.process.id());
    wait_for("a thread that waits for the disk", || {
        let stats = fs::read_dir(&tasks).unwrap().flatten();
        let mut stats = stats.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats.any(|stat| stat.contains(" (pool) D ")).then_some(())
    });
}

fn no_answer() {
    let system = FileSystem::new();
    let path = system.place().join("disk");
    let disk = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    disk.write_all_at(&content(8 * MIB), 0).unwrap();
    let machine = Machine::boot();
    let (slow, quick) = (device(&machine, 0), device(&machine, 1));
    machine.attach(0, false, &[&disk]).unwrap();
    machine.attach(1, false, &[&file(&content(8 * MIB))]).unwrap();
    wait_for_size(&machine, &slow, 8 * MIB);
    wait_for_size(&machine, &quick, 8 * MIB);
    let write = |device: &str| {
        format!("busybox dd if=/dev/zero of=/dev/{device} bs=64k count=16 conv=fsync 2>/dev/null")
    };

    let frozen = system.freeze();
    std::thread::scope(|scope| {
        let written = scope.spawn(|| machine.output(&write(&slow)));
        wait_for_waiter(&machine);
        // Another disk is written, flushed and read.
        machine.output(&write(&quick));
        machine.output(&format!("busybox dd if=/dev/{quick} of=/dev/null bs=64k 2>/dev/null"));
        assert!(!written.is_finished());
        drop(frozen);
        written.join().unwrap();
    });
    let mut after = vec![0xee; MIB];
    disk.read_exact_at(&mut after, 0).unwrap();
    assert!(after.iter().all(|byte| *byte == 0));

    let frozen = system.freeze();
    std::thread::scope(|scope| {
        scope.spawn(|| machine.shell(&write(&slow)));
        wait_for_waiter(&machine);
        let detached = scope.spawn(|| machine.request(&Request::Detach { slot: 0 }, &[]));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!detached.is_finished());
        drop(frozen);
        detached.join().unwrap().unwrap();
    });
    // Nobody has its file open any more.
    drop(disk);
    run("umount", &[system.place().to_str().unwrap()]);
    assert_eq!(machine.output("echo alive"), "alive");
}
