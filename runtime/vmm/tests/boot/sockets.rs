//! vsock, both ways.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::Test;
use crate::guest::{CONNECT_PORT, ECHO_PORT, SHELL_PORT};
use crate::machine::{Machine, wait_for};

pub const TESTS: &[Test] = &[
    ("data comes back as it went", echo),
    ("the guest connects to the host", guest_to_host),
    ("many connections at once", many),
    ("a connection that nobody reads does not hold up others", stalled),
    ("ports without a listener refuse", refused),
];

const MIB: usize = 1 << 20;

/// Sends `bytes` numbered bytes and gives what comes back until the end.
fn round_trip(stream: &std::os::unix::net::UnixStream, bytes: usize) {
    let content: Vec<u8> = (0..bytes).map(|i| (i / 5) as u8 ^ (i >> 13) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = stream;
            to.write_all(&content).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
        });
        let (mut from, mut back) = (stream, Vec::new());
        from.read_to_end(&mut back).unwrap();
        assert!(back == content, "{} bytes of {bytes}", back.len());
    });
}

fn echo() {
    let machine = Machine::boot();
    for bytes in [0, 1, 4096, 8 * MIB] {
        round_trip(&machine.connect(ECHO_PORT).unwrap(), bytes);
    }
    wait_for("the connections' end", || (machine.statistics().vsock_connections == 0).then_some(()));
}

fn guest_to_host() {
    let machine = Machine::boot();
    let mut stream = machine.connect(CONNECT_PORT).unwrap();
    writeln!(stream, "77").unwrap();
    let (port, mut server) = wait_for("the guest's connection", || machine.accept().ok());
    assert_eq!(port, 77);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut content = Vec::new();
            server.read_to_end(&mut content).unwrap();
            server.write_all(&content).unwrap();
        });
        round_trip(&stream, 3 * MIB);
    });
}

fn many() {
    let machine = Machine::boot();
    // The guest's kernel refuses while more wait than its listener's queue holds.
    let connect = || wait_for("a connection", || machine.connect(ECHO_PORT).ok());
    let streams: Vec<_> = (0..200).map(|_| connect()).collect();
    assert_eq!(machine.statistics().vsock_connections, 200);
    for stream in &streams {
        round_trip(stream, 5000);
    }
    drop(streams);
    wait_for("the connections' end", || (machine.statistics().vsock_connections == 0).then_some(()));
}

fn stalled() {
    let machine = Machine::boot();
    // The guest sends without end and we do not read; the guest does not read what we send.
    let mut unread = machine.connect(SHELL_PORT).unwrap();
    writeln!(unread, "busybox cat /dev/zero").unwrap();
    let mut deaf = machine.connect(SHELL_PORT).unwrap();
    writeln!(deaf, "busybox sleep 1000").unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while deaf.write_all(&[0; 64 << 10]).is_ok() {}
    round_trip(&machine.connect(ECHO_PORT).unwrap(), MIB);
    assert_eq!(machine.output("echo alive"), "alive");
}

fn refused() {
    let mut machine = Machine::boot();
    let began = Instant::now();
    machine.connect(9).unwrap_err();
    // The host takes the guest's connections no more.
    drop(std::mem::replace(&mut machine.host, UnixDatagram::unbound().unwrap()));
    let mut stream = machine.connect(CONNECT_PORT).unwrap();
    writeln!(stream, "78").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() && began.elapsed() < Duration::from_secs(30));
}
