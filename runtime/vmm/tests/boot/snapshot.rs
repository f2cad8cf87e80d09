//! A guest is saved, and clones of it go on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use husk_vmm::config::{HotplugConfig, NetConfig, RestoreConfig, VmConfig, slot_serial};
use husk_vmm::control::client::ControlError;
use husk_vmm::control::{Reply, Request, VmState};
use husk_vmm::written::Written;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::Test;
use crate::guest::{CONNECT_PORT, ECHO_PORT, SHELL_PORT};
use crate::machine::{Machine, wait_for};
use crate::network;

pub const TESTS: &[Test] = &[
    ("a saved guest goes on", saved_goes_on),
    ("a clone goes on where its template stood, with all its devices", clone_works),
    ("a clone's drivers are told of what is new to them alone", told_of_what_is_new),
    ("a clone of two CPUs at work", clone_of_two),
    ("a clone with two pairs of queues in use", clone_with_queues),
    ("a clone has copies of what the one before has written to", written_before),
    ("twenty clones live at once and share what they do not change", twenty_clones),
    ("what a snapshot cannot hold is refused", busy_is_refused),
    ("a damaged or foreign snapshot is refused", foreign_is_refused),
    ("no state, however wrong, makes the VMM panic", wrong_states),
];

/// The two files of a snapshot.
struct Template(TempDir);

impl Template {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn memory(&self) -> PathBuf {
        self.0.path().join("memory")
    }

    fn restore(&self) -> RestoreConfig {
        RestoreConfig { state: self.state(), memory: self.memory(), verify: false, written: None }
    }

    fn take(&self, machine: &Machine) -> Result<Reply, ControlError> {
        let file =
            |path| File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let (state, memory) = (file(self.state()), file(self.memory()));
        machine.request(&Request::Snapshot, &[state.as_fd(), memory.as_fd()])
    }

    /// Of a machine whose connections are about to end.
    fn of(machine: &Machine) -> Self {
        let template = Self::new();
        wait_for("a snapshot", || match template.take(machine) {
            Ok(reply) => {
                assert_eq!(reply, Reply::Done);
                Some(())
            }
            Err(ControlError::Refused(why)) if why.contains("vsock connection") => None,
            Err(error) => panic!("{error}"),
        });
        template
    }
}

fn shape(config: &mut VmConfig) {
    config.vcpus = 1;
    config.memory_mib = 128;
    config.hotplug = Some(HotplugConfig { limit_mib: 1024, requested_mib: 0 });
    config.nets =
        vec![NetConfig { tap_fds: Vec::new(), queues: 1, mac: "02:42:0a:63:00:02".to_owned(), mtu: 65535 }];
}

/// Boots, leaves a mark, and saves.
fn template() -> Template {
    let machine = Machine::boot_changed(shape);
    println!("  the template's boot took {:.0} ms", machine.up_after.as_secs_f64() * 1e3);
    machine.output("echo here >/tmp/mark");
    Template::of(&machine)
}

/// Waits until the guest answers.
fn answers(machine: &mut Machine) -> Duration {
    let began = Instant::now();
    wait_for("the clone", || {
        if let Some(status) = machine.process.try_wait().unwrap() {
            panic!("the VMM ended ({status}): {}", machine.words());
        }
        machine.connect(ECHO_PORT).ok()
    });
    began.elapsed()
}

fn clone_of(template: &Template) -> Machine {
    let mut machine = Machine::clone_of(template.restore(), shape);
    answers(&mut machine);
    machine
}

fn echo(machine: &Machine, bytes: usize) {
    let content: Vec<u8> = (0..bytes).map(|i| (i / 3) as u8).collect();
    let mut stream = machine.connect(ECHO_PORT).unwrap();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        let mut to = stream.try_clone().unwrap();
        let content = &content;
        scope.spawn(move || {
            to.write_all(content).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut back).unwrap();
    });
    assert!(back == content);
}

fn uptime(machine: &Machine) -> f64 {
    machine.output("busybox cut -d' ' -f1 /proc/uptime").parse().unwrap()
}

/// The driver has told the template's device how many pairs it uses, and does not tell the clone's.
fn clone_with_queues() {
    let shape = |config: &mut VmConfig| {
        shape(config);
        config.vcpus = 2;
        config.nets = vec![network::two_queues(&[])];
    };
    let template = Template::of(&Machine::boot_changed(shape));
    let taps = network::taps("husk-test0", 2);
    let mut machine = Machine::clone_of(template.restore(), |config| {
        shape(config);
        config.nets = vec![network::two_queues(&taps)];
    });
    drop(taps);
    answers(&mut machine);
    network::over_two_pairs(&machine);
}

fn saved_goes_on() {
    let machine = Machine::boot_changed(shape);
    machine.output("busybox ip link set eth0 up");
    let before = uptime(&machine);
    let _template = Template::of(&machine);
    let state = || machine.request(&Request::State, &[]).unwrap();
    assert_eq!(state(), Reply::State(VmState::Paused));
    machine.request(&Request::Resume, &[]).unwrap();
    assert_eq!(state(), Reply::State(VmState::Running));
    let after = uptime(&machine);
    assert!((before..before + 60.0).contains(&after), "{before} {after}");
    echo(&machine, 1 << 20);
}

fn clone_works() {
    let template = template();
    let began = Instant::now();
    let mut machine = Machine::clone_of(template.restore(), |config| {
        shape(config);
        config.hotplug = Some(HotplugConfig { limit_mib: 1024, requested_mib: 100 });
    });
    answers(&mut machine);
    println!("  a clone answers after {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    assert_eq!(machine.output("busybox cat /tmp/mark"), "here");
    // Time goes on: neither far ahead nor still.
    let (first, began) = (uptime(&machine), Instant::now());
    machine.output("busybox sleep 1");
    let (guest, host) = (uptime(&machine) - first, began.elapsed().as_secs_f64());
    assert!(guest > 0.9 && guest < host + 0.5, "{guest} s of the guest, {host} s of the host");
    assert!(first < 60.0, "{first}");
    // Sockets, both ways.
    echo(&machine, 3 << 20);
    let mut stream = machine.connect(CONNECT_PORT).unwrap();
    writeln!(stream, "77").unwrap();
    let (port, mut host) = wait_for("the guest's connection", || machine.accept().ok());
    assert_eq!(port, 77);
    host.write_all(b"hello").unwrap();
    drop(host);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    // Randomness of the host.
    let random = |n| machine.output(&format!("busybox head -c {n} /dev/hwrng | busybox md5sum"));
    assert_ne!(random(16), random(16));
    // A disk comes.
    let mut disk = tempfile::tempfile().unwrap();
    disk.write_all(&[7; 8192]).unwrap();
    machine.attach(1, true, &[&disk]).unwrap();
    let serial = slot_serial(1);
    let name = machine.output(&format!("busybox grep -l {serial} /sys/block/vd*/serial"));
    let name = name.split('/').nth(3).unwrap().to_owned();
    wait_for("the disk", || {
        (machine.output(&format!("busybox cat /sys/block/{name}/size")) == "16").then_some(())
    });
    let sum = machine.output(&format!("busybox head -c 8192 /dev/{name} | busybox md5sum"));
    assert_eq!(
        sum,
        machine.output("busybox head -c 8192 /dev/zero | busybox tr '\\0' '\\007' | busybox md5sum")
    );
    // The memory that it was to plug, and more.
    let resize =
        |memory_mib| machine.request(&Request::Resize { memory_mib, patience_ms: 30_000 }, &[]).unwrap();
    assert_eq!(resize(228), Reply::Memory(228));
    assert_eq!(resize(512), Reply::Memory(512));
    machine.output("busybox mkdir /big && busybox mount -t tmpfs -o size=400m tmpfs /big");
    machine.output("busybox head -c 4m /dev/urandom >/big/piece");
    machine.output("for i in $(busybox seq 35); do busybox cat /big/piece; done >/big/file");
    // CPUs that the template never had.
    assert_eq!(machine.output("busybox nproc"), "1");
    machine
        .output("echo 1 >/sys/devices/system/cpu/cpu1/online && echo 1 >/sys/devices/system/cpu/cpu2/online");
    assert_eq!(machine.output("busybox nproc"), "3");
    machine.output("busybox taskset 4 busybox sh -c 'for i in $(busybox seq 2000); do :; done'");
    // The interface takes an address and an MTU of its own.
    machine
        .output("busybox ip link set eth0 address 02:42:0a:63:00:77 mtu 1400 && busybox ip link set eth0 up");
    assert_eq!(machine.output("busybox cat /sys/class/net/eth0/address"), "02:42:0a:63:00:77");
    assert_eq!(machine.output("busybox cat /sys/class/net/eth0/mtu"), "1400");
    // It cannot be saved again, and goes on.
    let refused = Template::new().take(&machine).unwrap_err().to_string();
    assert!(refused.contains("a clone cannot be saved"), "{refused}");
    echo(&machine, 100);
}

/// How often drivers of devices of which a clone has nothing new have been interrupted: those of memory, of the balloon,
/// and of the block slots.
#[derive(Debug, PartialEq)]
struct Interrupts {
    memory: u64,
    balloon: u64,
    disks: Vec<u64>,
}

impl Interrupts {
    fn of(machine: &Machine) -> Self {
        let counts = |driver: &str| -> Vec<u64> {
            let told = machine.output(&format!(
                "for device in $(busybox ls /sys/bus/virtio/drivers/{driver} | busybox grep ^virtio); do \
                 busybox awk -v name=$device '$NF == name {{ print $2 }}' /proc/interrupts; done"
            ));
            told.lines().map(|line| line.parse().unwrap()).collect()
        };
        let one = |driver| match counts(driver)[..] {
            [count] => count,
            ref counts => panic!("{driver}: {counts:?}"),
        };
        Self { memory: one("virtio_mem"), balloon: one("virtio_balloon"), disks: counts("virtio_blk") }
    }
}

/// At most so many reports of free pages, each of which ends in an interrupt, have come from a guest: they are of
/// 2 MiB or more.
fn reports(machine: &Machine) -> u64 {
    machine.statistics().balloon_reported_bytes >> 21
}

fn told_of_what_is_new() {
    let machine = Machine::boot_changed(shape);
    let reported_before = reports(&machine);
    let before = Interrupts::of(&machine);
    assert_eq!(before.disks.len(), 3);
    let template = Template::of(&machine);
    let reported = reports(&machine) - reported_before;
    drop(machine);
    // A guest reports when it likes, so that the balloon's interrupts may have become more for a reason.
    let told_nothing = |clone: &Machine, after: &Interrupts| {
        let with_reports = before.balloon + reported + reports(clone);
        assert!(
            (before.balloon..=with_reports).contains(&after.balloon),
            "{before:?} {with_reports} {after:?}"
        );
        assert_eq!(after.disks, before.disks);
    };
    let same = clone_of(&template);
    let after = Interrupts::of(&same);
    told_nothing(&same, &after);
    assert_eq!(after.memory, before.memory);
    let mut asked = Machine::clone_of(template.restore(), |config| {
        shape(config);
        config.hotplug = Some(HotplugConfig { limit_mib: 1024, requested_mib: 128 });
    });
    answers(&mut asked);
    wait_for("memory", || {
        let after = Interrupts::of(&asked);
        told_nothing(&asked, &after);
        (after.memory != before.memory).then_some(())
    });
}

fn clone_of_two() {
    let machine = Machine::boot();
    // One loop on each CPU.
    for cpu in 1..=2 {
        let busy = "busybox sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1";
        machine.shell(&format!("busybox taskset {cpu} {busy} & echo $! >/tmp/loop{cpu}"));
    }
    let template = Template::of(&machine);
    let mut clone = Machine::clone_of(template.restore(), |_| {});
    answers(&mut clone);
    assert_eq!(clone.output("busybox nproc"), "2");
    let ticks = || -> Vec<u64> {
        let told = clone
            .output("for i in 1 2; do busybox awk '{print $14}' /proc/$(busybox cat /tmp/loop$i)/stat; done");
        told.split_whitespace().map(|text| text.parse().unwrap()).collect()
    };
    let first = ticks();
    assert_eq!(first.len(), 2);
    wait_for("both CPUs to go on", || {
        ticks().iter().zip(&first).all(|(now, first)| *now > first + 20).then_some(())
    });
    let clocks =
        clone.output("for i in 0 1; do busybox taskset $((i + 1)) busybox cut -d' ' -f1 /proc/uptime; done");
    let clocks: Vec<f64> = clocks.split_whitespace().map(|text| text.parse().unwrap()).collect();
    assert!(clocks[1] - clocks[0] >= 0.0 && clocks[1] - clocks[0] < 5.0, "{clocks:?}");
}

/// A clone that is told which pages it will write to has them before it runs, and works as any other.
fn written_before() {
    let template = template();
    let memory = File::open(template.memory()).unwrap();
    let written_by = |machine: &Machine| Written::of_clone(machine.process.id() as i32, &memory).unwrap();
    let pages = |written: &Written| written.ranges().iter().map(|range| range.end - range.start).sum::<u64>();
    let learnt = {
        let clone = clone_of(&template);
        written_by(&clone)
    };
    println!("  a clone that answers has written to {} pages of its template", pages(&learnt));
    let path = template.0.path().join("written");
    learnt.write(&File::create(&path).unwrap()).unwrap();
    let restore = RestoreConfig { written: Some(path.clone()), ..template.restore() };
    let mut clone = Machine::clone_of(restore.clone(), shape);
    answers(&mut clone);
    let own: BTreeSet<u64> = written_by(&clone).ranges().iter().cloned().flatten().collect();
    let missing = learnt.ranges().iter().cloned().flatten().filter(|page| !own.contains(page)).count();
    assert_eq!(missing, 0, "of {} pages", pages(&learnt));
    assert_eq!(clone.output("busybox cat /tmp/mark"), "here");
    echo(&clone, 1 << 20);
    // What is no list of this memory's pages is refused.
    for (text, why) in [(r#"[{"start":0,"end":999999}]"#, "none of a memory of 32768"), ("[", "EOF")] {
        fs::write(&path, text).unwrap();
        let words = refusal(restore.clone(), |_| {});
        assert!(words.contains("list of written pages") && words.contains(why), "{words}");
    }
}

/// The proportional share of memory of a process, KiB.
fn pss_kib(machine: &Machine) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", machine.process.id());
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn twenty_clones() {
    const MAX_PSS_KIB: u64 = 12 << 10;
    let template = template();
    let clones: Vec<Machine> = (0..20).map(|_| clone_of(&template)).collect();
    for (number, clone) in clones.iter().enumerate() {
        clone.output(&format!("echo {number} >/tmp/mark"));
    }
    let marks: BTreeSet<String> = clones.iter().map(|clone| clone.output("busybox cat /tmp/mark")).collect();
    assert_eq!(marks.len(), 20);
    let pss = pss_kib(&clones[19]);
    println!("  PSS of the 20th clone of 128 MiB: {:.1} MiB", pss as f64 / 1024.0);
    assert!(pss <= MAX_PSS_KIB, "{pss} KiB");
    // Nothing of it is in the template.
    for _ in 0..5 {
        let again = clone_of(&template);
        assert_eq!(again.output("busybox cat /tmp/mark"), "here");
    }
}

fn busy_is_refused() {
    let machine = Machine::boot_changed(shape);
    let refused = |part: &str| {
        let error = Template::new().take(&machine).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(machine.request(&Request::State, &[]).unwrap(), Reply::State(VmState::Running));
    };
    let open = machine.connect(SHELL_PORT).unwrap();
    refused("1 vsock connections are open");
    drop(open);
    wait_for("the connection's end", || (machine.statistics().vsock_connections == 0).then_some(()));
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(4096).unwrap();
    machine.attach(2, false, &[&disk]).unwrap();
    refused("block slot 2 holds a medium");
    machine.request(&Request::Detach { slot: 2 }, &[]).unwrap();
    let resize =
        |memory_mib| machine.request(&Request::Resize { memory_mib, patience_ms: 30_000 }, &[]).unwrap();
    assert_eq!(resize(256), Reply::Memory(256));
    refused("128 MiB of memory are plugged");
    let error = machine.request(&Request::Snapshot, &[disk.as_fd()]).unwrap_err().to_string();
    assert!(error.contains("1 descriptors came with a request that takes two"), "{error}");
    // A kernel that may not have so much.
    let asked = Machine::boot_changed(|config| {
        shape(config);
        config.hotplug = Some(HotplugConfig { limit_mib: 1024, requested_mib: 128 });
        config.cmdline.push_str(" mem=256M");
    });
    wait_for("the refusal", || {
        let error = Template::new().take(&asked).unwrap_err().to_string();
        error.contains("the guest is asked to plug 128 MiB of memory").then_some(())
    });
}

/// What a VMM that refuses says.
fn refusal(restore: RestoreConfig, change: impl FnOnce(&mut VmConfig)) -> String {
    let mut machine = Machine::clone_of(restore, |config| {
        shape(config);
        change(config);
    });
    assert_eq!(machine.end().code(), Some(1), "{}", machine.words());
    machine.words()
}

fn foreign_is_refused() {
    let template = template();
    let refused = |change: &dyn Fn(&mut VmConfig), part: &str| {
        let words = refusal(template.restore(), change);
        assert!(words.contains(part), "{words}");
    };
    refused(&|config| config.memory_mib = 256, "memory_mib 128, and the configuration says 256");
    refused(&|config| config.max_vcpus = 2, "max_vcpus 3");
    refused(&|config| config.block_slots = 4, "block_slots 3");
    refused(&|config| config.nets.clear(), "nets with numbers of queues of [1]");
    refused(&|config| config.fs_tag = None, "fs_tag Some(\"husk\")");
    refused(&|config| config.hotplug = None, "hotplug.limit_mib Some(1024)");

    let (state, memory) =
        (fs::read(template.state()).unwrap(), fs::metadata(template.memory()).unwrap().len());
    let broken = |file: PathBuf, change: &dyn Fn(&File), verify: bool, part: &str| {
        let other = Template::new();
        fs::copy(template.state(), other.state()).unwrap();
        fs::copy(template.memory(), other.memory()).unwrap();
        let name = file.file_name().unwrap();
        change(&File::options().read(true).write(true).open(other.0.path().join(name)).unwrap());
        let words = refusal(RestoreConfig { verify, ..other.restore() }, |_| {});
        assert!(words.contains(part), "{words}");
    };
    let put = |bytes: &'static [u8], at: u64| move |file: &File| file.write_all_at(bytes, at).unwrap();
    let cut = |length: u64| move |file: &File| file.set_len(length).unwrap();
    broken(template.state(), &put(b"X", 0), false, "not the state of a snapshot");
    broken(template.state(), &put(&[9, 0, 0, 0], 8), false, "its format is 9");
    broken(template.state(), &put(b"9.9.9\0", 16), false, "made by husk-vmm 9.9.9");
    broken(template.state(), &put(b"#", 200), false, "damaged: its checksum differs");
    broken(template.state(), &cut(40), false, "not the state of a snapshot");
    broken(template.state(), &cut(state.len() as u64 - 1), false, "bytes behind its header");
    broken(template.memory(), &cut(memory - 4096), false, "cut short or another VM's");
    broken(template.memory(), &put(b"X", memory - 4096), false, "not the memory of a snapshot");
    broken(template.memory(), &put(&[0; 32], memory - 4096 + 8), false, "belongs to another state");
    broken(template.memory(), &put(b"\x5a\xa5\x5a", 0x30_0001), true, "damaged: its checksum differs");
    // Memory of one snapshot with the state of another.
    let other = self::template();
    let words = refusal(RestoreConfig { memory: other.memory(), ..template.restore() }, |_| {});
    assert!(words.contains("belongs to another state"), "{words}");
    // What is whole is good, whatever was tried before.
    let mut clone = Machine::clone_of(RestoreConfig { verify: true, ..template.restore() }, shape);
    answers(&mut clone);
    // A CPU that can do other things.
    let words = refusal(
        forge(&template, |content| {
            let leaf = content["cpuid"].as_array_mut().unwrap().first_mut().unwrap();
            leaf[12] = (leaf[12].as_u64().unwrap() ^ 1).into();
        }),
        |_| {},
    );
    assert!(words.contains("CPUID leaf 0x0"), "{words}");
}

/// The state with another content and the right checksum, in the template's place.
fn write_forged(template: &Template, content: &[u8]) -> PathBuf {
    let state = fs::read(template.state()).unwrap();
    let mut file = state[..48].to_vec();
    file[12..16].copy_from_slice(&(content.len() as u32).to_le_bytes());
    let sum = Sha256::new().chain_update(&file).chain_update(content).finalize();
    file.extend(sum);
    file.extend(content);
    let path = template.0.path().join("forged");
    fs::write(&path, file).unwrap();
    path
}

fn forge(template: &Template, change: impl FnOnce(&mut serde_json::Value)) -> RestoreConfig {
    let state = fs::read(template.state()).unwrap();
    let mut content = serde_json::from_slice(&state[80..]).unwrap();
    change(&mut content);
    let path = write_forged(template, &serde_json::to_vec(&content).unwrap());
    RestoreConfig { state: path, ..template.restore() }
}

/// It may run or refuse; it may not panic.
fn survives(restore: RestoreConfig, what: &str) {
    let mut machine = Machine::clone_of(restore, shape);
    let began = Instant::now();
    let status = loop {
        match machine.process.try_wait().unwrap() {
            None if began.elapsed() < Duration::from_millis(300) => {
                std::thread::sleep(Duration::from_millis(5))
            }
            other => break other,
        }
    };
    let words = machine.words();
    assert!(!words.contains("panicked"), "{what}: {words}");
    assert!(
        status.is_none_or(|status| matches!(status.code(), Some(0 | 1 | 3 | 4))),
        "{what}: {status:?}: {words}"
    );
}

fn wrong_states() {
    let template = template();
    let state = fs::read(template.state()).unwrap();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("  seed {seed}");
    let mut number = seed | 1;
    let mut random = move |below: usize| {
        number ^= number << 13;
        number ^= number >> 17;
        number ^= number << 5;
        number as usize % below
    };
    // As it is on a disk that forgets.
    for _ in 0..20 {
        let mut bytes = state.clone();
        let at = random(bytes.len());
        bytes[at] ^= 1 << random(8);
        let path = template.0.path().join("flipped");
        fs::write(&path, bytes).unwrap();
        let words = refusal(RestoreConfig { state: path, ..template.restore() }, |_| {});
        assert!(!words.contains("panicked"), "{words}");
    }
    // With a checksum that is right, as only somebody could make it who owns the host.
    for _ in 0..30 {
        let mut content = state[80..].to_vec();
        let at = random(content.len());
        content[at] = if content[at].is_ascii_digit() { b'0' + random(10) as u8 } else { random(256) as u8 };
        let path = write_forged(&template, &content);
        survives(RestoreConfig { state: path, ..template.restore() }, &format!("byte {at}"));
    }
    let queue = |name: &'static str, value: u64| {
        move |content: &mut serde_json::Value| content["devices"][1]["queues"][0][name] = value.into()
    };
    for (change, part) in [
        (Box::new(queue("desc_table", 1 << 40)) as Box<dyn Fn(&mut serde_json::Value)>, "queue 0"),
        (Box::new(queue("size", 7)), "queue 0"),
        (Box::new(queue("max_size", 512)), "queues' greatest size"),
        (Box::new(|content| content["devices"][0]["status"] = 4.into()), "status of 0x4"),
        (Box::new(|content| content["devices"][0]["kind"] = 2.into()), "device type is 0x2"),
        (Box::new(|content| content["devices"][0]["driver_features"] = u64::MAX.into()), "set of features"),
        (Box::new(|content| drop(content["devices"].as_array_mut().unwrap().pop())), "virtio devices"),
        (Box::new(|content| drop(content["vcpus"].as_array_mut().unwrap().pop())), "2 vCPUs"),
        (Box::new(|content| content["serial"]["in_buffer"] = vec![0; 500].into()), "registers"),
        (Box::new(|content| content["colour"] = 1.into()), "unknown field `colour`"),
        (Box::new(|content| content["irq_chips"][0][0] = 1.into()), "interrupt controllers"),
    ] {
        let words = refusal(forge(&template, change), |_| {});
        assert!(words.contains(part), "{part}: {words}");
    }
}
