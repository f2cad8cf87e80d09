//! Boots and clones with the real agent, without a daemon: the time until it can be worked with, and what a VM takes
//! while it idles.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use husk_proto::{AGENT_PORT, LATE_SLOT_ID, READY_PORT, ReadyTimes, VOLUME_TAG};
use husk_tests::bench_init::{IDLE_VARIABLE, UP};
use husk_tests::{Bed, Process, Qemu, Vmm, inherit, microvm, readable, sh, step};
use husk_vmm::config::{
    HotplugConfig, JailConfig, LateDevices, LateSlots, NetConfig, RestoreConfig, VmConfig,
};
use husk_vmm::control::Request;
use husk_vmm::written::Written;
use vsock::{VMADDR_CID_ANY, VsockListener};

use super::{LIMIT, MEMORY, insist};
use crate::figures::Figures;
use crate::trace::{self, Steps};

/// After a VM's end, before the next one's start: what the host still does for the one is not the other's.
const SETTLED: Duration = Duration::from_millis(300);
/// Bytes of memory, more than a guest gives back.
const GIVEN_BACK: usize = 512 << 20;
/// A guest's own settling after its boot. A young guest is not idle: it seeds its random numbers anew whenever half of its
/// time up has passed again, at first every few seconds, and each time wakes more than that.
const REST: Duration = Duration::from_secs(120);
/// Between two signs of life meanwhile.
const SIGN: Duration = Duration::from_secs(20);
/// How long an idle VM is watched. A guest's kernel wakes in bouts: once it has been woken, its averages of pressure and its
/// scheduler's watch over its tasks have it look again every second or two, for as long as each look leaves work behind.
const WATCHED: Duration = Duration::from_secs(90);
const MAC: &str = "02:42:0a:63:00:02";

/// HTTP/2's preface with empty settings (RFC 9113, section 3.4), which the agent answers with its own.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The head of a frame (section 4.1), and its type's place and value.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;

struct Boots {
    network: Namespace,
    vmm: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    dir: PathBuf,
    words: VsockListener,
}

/// A pod's network is there before its monitor.
struct Namespace {
    name: String,
    descriptor: i32,
    _file: File,
}

impl Namespace {
    fn make(name: &str) -> Namespace {
        sh(&format!("ip netns add {name}"));
        let file = File::open(Path::new("/run/netns").join(name)).expect("open a network namespace");
        Namespace { name: name.to_owned(), descriptor: inherit(&file), _file: file }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        sh(&format!("ip netns delete {}", self.name));
    }
}

/// Boots of both monitors and clones take turns.
pub fn measure(bed: &Bed, rounds: usize, figures: &mut Figures) {
    let boots = Boots::new(bed, "b");
    let mut template = boots.template();
    // The first round warms caches and is not counted.
    for round in 0..=rounds {
        settle();
        let (qemu, _) = insist("QEMU's boot", || boots.qemu());
        settle();
        let (boot, steps, _) = insist("husk-vmm's boot", || boots.boot(false));
        settle();
        let (clone, clone_steps, vmm) = boots.clone_of(&template);
        if round == 0 {
            boots.learn(&mut template, &vmm);
        }
        drop(vmm);
        step(format!("round {round} of {rounds}: QEMU {qemu:.0} ms, boot {boot:.0} ms, clone {clone:.1} ms"));
        if round > 0 {
            figures.ours("boot", boot);
            figures.peers("boot", qemu);
            figures.ours("clone", clone);
            figures.peers("clone", boot);
            figures.steps("boot", steps);
            figures.steps("clone", clone_steps);
        }
    }
}

/// A VM of each monitor with the agent, and one of QEMU's with an init that does nothing at all, idle side by side.
pub fn idle(bed: &Bed, figures: &mut Figures) {
    let boots = Boots::new(bed, "i");
    let (_, _, vmm) = insist("husk-vmm's boot", || boots.boot(false));
    let (_, qemu) = insist("QEMU's boot", || boots.qemu());
    let sleeper = insist("QEMU's boot with an init that sleeps", || boots.sleeper(bed));
    pass(REST, "guests come to rest");
    let [ours, same, theirs] = taken_by([vmm.process(), qemu.process(), sleeper.process()]);
    figures.ours("idle", ours);
    figures.peers("idle", theirs);
    figures.ours("idle-same", ours);
    figures.peers("idle-same", same);
    let (own, guest) = vmm.process().monitor_memory();
    step(format!(
        "husk-vmm itself: {} KiB RSS, {} KiB PSS; its guest {} KiB; QEMU with its guest: {} KiB PSS",
        own.rss,
        own.pss,
        guest.rss,
        qemu.process().memory().pss
    ));
    figures.ours("own-memory", own.rss as f64 / 1024.0);
}

/// Until what the VM before has left is nobody's matter any more. An emulated host is slow to write to memory that was
/// executed, as it has to forget what it made of that code: the memory that the last guest has given back is written here,
/// and not while the next guest's kernel is read into it.
fn settle() {
    std::thread::sleep(SETTLED);
    let mut memory = vec![0_u8; GIVEN_BACK];
    // Of x86-64; a page is cleared as it is touched.
    memory.chunks_mut(4096).for_each(|page| page[0] = 1);
    std::hint::black_box(&memory);
}

/// Lets that time pass, with signs of life, and answers how much has.
fn pass(time: Duration, what: &str) -> Duration {
    let begun = Instant::now();
    while let Some(left) = time.checked_sub(begun.elapsed()) {
        step(format!("{what}: {} s to go", left.as_secs()));
        std::thread::sleep(SIGN.min(left));
    }
    begun.elapsed()
}

/// Milliseconds a second of the host's CPU that each takes.
fn taken_by(processes: [Process; 3]) -> [f64; 3] {
    let before = processes.map(|process| process.cpu());
    let took = pass(WATCHED, "idle guests are watched").as_secs_f64();
    let after = processes.map(|process| process.cpu());
    [0, 1, 2].map(|side| (after[side] - before[side]).as_secs_f64() * 1000.0 / took)
}

impl Boots {
    fn new(bed: &Bed, name: &str) -> Boots {
        let dir = bed.scratch(name);
        File::create(dir.join("disk")).and_then(|disk| disk.set_len(64 << 20)).expect("make a disk");
        Boots {
            network: Namespace::make(&format!("husk-bench-{name}")),
            vmm: bed.paths.program("husk-vmm"),
            kernel: bed.paths.kernel(),
            initramfs: bed.paths.initramfs(),
            dir,
            words: VsockListener::bind_with_cid_port(VMADDR_CID_ANY, READY_PORT).expect("listen on vsock"),
        }
    }

    /// A machine as the daemon describes a pod's.
    fn config(&self, savable: bool) -> VmConfig {
        let config = Vmm::config(&self.dir, MEMORY, &self.kernel, &self.initramfs);
        let jail = config.jail.clone();
        VmConfig {
            jail: jail.map(|jail| JailConfig { network_fd: Some(self.network.descriptor), ..jail }),
            max_vcpus: 2,
            hotplug: Some(HotplugConfig { limit_mib: 1024, requested_mib: 0 }),
            savable,
            block_slots: 12,
            late: if savable { late_in_template() } else { config.late.clone() },
            fs_tag: Some(VOLUME_TAG.to_owned()),
            nets: vec![NetConfig { tap_fds: Vec::new(), queues: 1, mac: MAC.to_owned(), mtu: u16::MAX }],
            ..config
        }
    }

    /// Milliseconds from the monitor's start to the agent's word that it listens, and of each step.
    fn boot(&self, savable: bool) -> Option<(f64, Steps, Vmm)> {
        let begun = trace::now();
        let vmm = Vmm::start(&self.vmm, self.config(savable));
        let mut agent = vmm.accept(READY_PORT, LIMIT)?;
        let word = trace::now();
        let mut times = [0; ReadyTimes::BYTES];
        agent.read_exact(&mut times).ok()?;
        drop(agent);
        let marks = trace::marks(&vmm);
        let mut steps = trace::monitor(begun, &marks);
        steps.extend(trace::guest(&marks, ReadyTimes::from_bytes(times), word));
        Some(((word - begun).as_secs_f64() * 1000.0, steps, vmm))
    }

    /// QEMU with what a pod needs: a disk, an interface, entropy and vsock. Its context id, and where its console is.
    fn start_qemu(&self, initramfs: &Path, more: &str) -> (u32, PathBuf, Qemu) {
        static NEXT: AtomicU32 = AtomicU32::new(1000);
        let cid = NEXT.fetch_add(1, Ordering::Relaxed);
        let console = self.dir.join(format!("qemu-{cid}"));
        let qemu = Qemu::start(
            microvm(true, MEMORY)
                .arg("-serial")
                .arg(format!("file:{}", console.display()))
                .arg("-drive")
                .arg(format!(
                    "file={},if=none,id=disk,format=raw,file.locking=off",
                    self.dir.join("disk").display()
                ))
                .args(["-device", "virtio-blk-device,drive=disk", "-device", "virtio-rng-device"])
                .args(["-netdev", "hubport,id=net,hubid=0"])
                .args(["-device", &format!("virtio-net-device,netdev=net,mac={MAC}")])
                .args(["-device", &format!("vhost-vsock-device,guest-cid={cid}")])
                .args(["-append", &format!("{} {more}", husk_vmm::CMDLINE)])
                .arg("-kernel")
                .arg(&self.kernel)
                .arg("-initrd")
                .arg(initramfs)
                // It warns that the interface leads nowhere.
                .stderr(Stdio::null()),
        );
        (cid, console, qemu)
    }

    /// The same kernel with an init that sleeps.
    fn sleeper(&self, bed: &Bed) -> Option<Qemu> {
        let initramfs = self.dir.join("sleeper.cpio");
        bed.paths.pack_init("husk-bench-init", &initramfs);
        let begun = Instant::now();
        let (_, console, qemu) = self.start_qemu(&initramfs, &format!("{IDLE_VARIABLE}=1"));
        while !fs::read_to_string(&console).is_ok_and(|text| text.contains(UP)) {
            LIMIT.checked_sub(begun.elapsed())?;
            std::thread::sleep(SETTLED);
        }
        Some(qemu)
    }

    /// The same of QEMU.
    fn qemu(&self) -> Option<(f64, Qemu)> {
        let begun = Instant::now();
        let (cid, _, qemu) = self.start_qemu(&self.initramfs, "");
        loop {
            LIMIT.checked_sub(begun.elapsed()).filter(|left| readable(self.words.as_fd(), *left))?;
            let (_, from) = self.words.accept().expect("accept on vsock");
            if from.cid() == cid {
                return Some((milliseconds(begun), qemu));
            }
        }
    }

    /// Boots, comes to rest, and is saved.
    fn template(&self) -> RestoreConfig {
        let restore = RestoreConfig {
            state: self.dir.join("template"),
            memory: self.dir.join("template-memory"),
            verify: false,
            written: None,
        };
        let (_, _, vmm) = insist("the template's boot", || self.boot(true));
        let begun = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let file = |path| {
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(true);
                options.open(path).expect("create the template's files")
            };
            let files = [file(&restore.state), file(&restore.memory)];
            match vmm.request(&Request::Snapshot, &[files[0].as_fd(), files[1].as_fd()]) {
                Ok(_) => return restore,
                Err(error) => assert!(begun.elapsed() < LIMIT, "the template is not saved: {error}"),
            }
        }
    }

    /// What the daemon keeps of a template's first clone.
    fn learn(&self, template: &mut RestoreConfig, clone: &Vmm) {
        let path = self.dir.join("template-written");
        let memory = File::open(&template.memory).expect("open the template's memory");
        let written = Written::of_clone(clone.process().0, &memory).expect("look what a clone wrote");
        File::create(&path).and_then(|file| written.write(&file)).expect("keep what a clone wrote");
        template.written = Some(path);
    }

    /// Milliseconds from the monitor's start to the agent's first bytes, and of the monitor's steps.
    fn clone_of(&self, template: &RestoreConfig) -> (f64, Steps, Vmm) {
        let (begun, clock) = (Instant::now(), trace::now());
        let vmm = Vmm::start(&self.vmm, VmConfig { restore: Some(template.clone()), ..self.config(false) });
        while !answers(vmm.connect(AGENT_PORT)) {
            assert!(begun.elapsed() < LIMIT, "the clone's agent does not answer: {}", vmm.console());
        }
        let took = milliseconds(begun);
        let mut steps = trace::monitor(clock, &trace::marks(&vmm));
        let monitor: f64 = steps.iter().map(|(_, took)| took).sum();
        steps.push(("guest until its agent answers".to_owned(), took - monitor));
        (took, steps, vmm)
    }
}

/// A template's guest has drivers for all that most of its clones use.
fn late_in_template() -> LateDevices {
    let slots = LateSlots { acpi_id: LATE_SLOT_ID.to_owned(), first: 3 };
    LateDevices { slots: Some(slots), ..LateDevices::default() }
}

/// Whether the agent is behind the connection.
fn answers(mut stream: UnixStream) -> bool {
    let mut head = [0; HEAD];
    let answered = stream.write_all(PREFACE).and_then(|()| stream.read_exact(&mut head));
    answered.is_ok() && head[3] == SETTINGS
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}
