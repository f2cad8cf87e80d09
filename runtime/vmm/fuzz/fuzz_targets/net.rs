//! Frames both ways.
#![no_main]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::OnceLock;

use husk_vmm::config::{NetConfig, Rate, RateLimit};
use husk_vmm::fuzzing::{Lane, Limiter, Net, NetLimits, Ticket};
use husk_vmm_fuzz::{Step, World};

/// A tap of this process; who fuzzes must be root.
fn tap() -> &'static File {
    static TAP: OnceLock<File> = OnceLock::new();
    TAP.get_or_init(|| {
        let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("open /dev/net/tun");
        let mut request = [0_u8; 40];
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request[16..18].copy_from_slice(&(flags as u16).to_ne_bytes());
        // SAFETY: the request is a `struct ifreq` of 40 bytes, in which the kernel writes the interface's name.
        let made = unsafe { libc::ioctl(tap.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr()) };
        assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        tap
    })
}

/// Zero: none.
fn limit(operations: u8) -> Ticket {
    let rate = (operations > 0).then_some(Rate { per_second: u64::from(operations) * 20, burst: 1 });
    let limit = RateLimit { operations: rate, bytes: None };
    Ticket::new(Limiter::new(limit).as_ref()).expect("a ticket")
}

libfuzzer_sys::fuzz_target!(|input: (u8, u8, bool, Vec<Step>)| {
    let (rx, tx, several, steps) = input;
    let mut world = World::new();
    let tap_fd = tap().try_clone().expect("a descriptor").into_raw_fd();
    let queues = if several { 2 } else { 1 };
    let config = NetConfig { tap_fds: vec![tap_fd], queues, mac: "02:00:00:00:00:01".into(), mtu: 1500 };
    let limits = NetLimits { rx: limit(rx), tx: limit(tx) };
    // The second pair has no queue of the tap.
    let lane = || Lane { limits: NetLimits { rx: limit(rx), tx: limit(tx) }, worker: world.second.clone() };
    let lanes = (1..queues).map(|_| lane()).collect();
    let device = Net::new(0, &config, limits, lanes, Default::default()).expect("a device");
    world.plug(Net::identity([2, 0, 0, 0, 0, 1], 1500, queues), Box::new(device), World::interrupt());
    world.play(&steps, |_, _, _| {});
});
