//! How a VM ends, and what the VMM says of it.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use husk_vmm::control::{Reply, Request};

use crate::Test;
use crate::guest::END_INIT;
use crate::machine::{Machine, wait_for};

pub const TESTS: &[Test] = &[
    ("a guest powers off", power_off),
    ("a guest reboots", reboot),
    ("a guest's kernel panics", panic),
    ("the host stops a guest", stop),
    ("SIGTERM stops a guest", terminate),
    ("a stop ends a paused guest", stop_paused),
];

fn ends_with(mut machine: Machine, status: i32, words: &str) {
    assert_eq!(machine.end().code(), Some(status), "{}", machine.words());
    assert!(machine.words().contains(words), "{}", machine.words());
}

fn power_off() {
    let machine = Machine::boot();
    machine.last_command("busybox poweroff -f");
    ends_with(machine, 0, "the guest powered off");
}

fn reboot() {
    let machine = Machine::boot();
    machine.last_command("busybox reboot -f");
    ends_with(machine, 3, "the guest reset itself");
}

fn panic() {
    let machine = Machine::boot();
    machine.last_command(END_INIT);
    assert!(wait_for("the console", || Some(machine.words())).len() > 10);
    ends_with(machine, 3, "Kernel panic");
}

fn stop() {
    let mut machine = Machine::boot();
    let began = Instant::now();
    assert_eq!(machine.request(&Request::Stop, &[]).unwrap(), Reply::Done);
    assert_eq!(machine.end().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

fn terminate() {
    let machine = Machine::boot();
    // SAFETY: the process is our child and not waited for yet.
    assert_eq!(unsafe { libc::kill(machine.process.id() as i32, libc::SIGTERM) }, 0);
    ends_with(machine, 0, "stopped on request");
}

fn stop_paused() {
    let mut machine = Machine::boot();
    machine.request(&Request::Pause, &[]).unwrap();
    machine.request(&Request::Stop, &[]).unwrap();
    let status = machine.end();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}
