//! Packets of the guest, and clients of the host that come, speak and go, and a host that takes connections.
#![no_main]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use husk_vmm::config::VsockConfig;
use husk_vmm::fuzzing::{Vsock, listen};
use husk_vmm::host_ports;
use husk_vmm_fuzz::{Step, World};

fn socket() -> PathBuf {
    std::env::temp_dir().join(format!("husk-fuzz-{}", std::process::id()))
}

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let socket = socket();
    let _ = std::fs::remove_file(&socket);
    let (vmm, host) = host_ports::pair().expect("a pair of sockets");
    host.set_nonblocking(true).expect("not block");
    let mut world = World::new();
    let config =
        VsockConfig { cid: 3, socket: socket.clone(), listener_fd: None, host_fd: Some(vmm.into_raw_fd()) };
    let device = Vsock::new(&config, listen(&socket).expect("listen"), Default::default()).expect("a device");
    world.plug(Vsock::identity(3), Box::new(device), World::interrupt());
    let clients: RefCell<Vec<UnixStream>> = RefCell::default();
    world.play(&steps, |_, what, bytes| {
        let mut clients = clients.borrow_mut();
        match what % 6 {
            0 if clients.len() < 16 => {
                let client = UnixStream::connect(&socket).expect("connect");
                client.set_nonblocking(true).expect("not block");
                clients.push(client);
            }
            1 => drop(clients.last_mut().map(|client| client.write(b"CONNECT 5\n"))),
            2 => drop(clients.last_mut().map(|client| client.write(bytes))),
            3 => drop(clients.last_mut().map(|client| client.read(&mut [0; 4096]))),
            4 => drop(clients.pop()),
            _ => clients.extend(host_ports::accept(host.as_fd()).ok().map(|(_, client)| {
                client.set_nonblocking(true).expect("not block");
                client
            })),
        }
    });
});
