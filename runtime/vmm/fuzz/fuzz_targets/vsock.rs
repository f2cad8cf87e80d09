//! Packets of the guest, and clients of the host that come, speak, listen and go.
#![no_main]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use husk_vmm::config::VsockConfig;
use husk_vmm::fuzzing::Vsock;
use husk_vmm_fuzz::{Step, World};

/// The port of the host that listens.
const PORT: u32 = 1;

fn dir() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("husk-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("make a directory");
    dir
}

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let socket = dir().join("v");
    let listening = dir().join(format!("v_{PORT}"));
    for path in [&socket, &listening] {
        let _ = std::fs::remove_file(path);
    }
    let listener = UnixListener::bind(&listening).expect("listen");
    listener.set_nonblocking(true).expect("not block");
    let mut world = World::new();
    let config = VsockConfig { cid: 3, socket: socket.clone() };
    let device = Vsock::new(&config, Default::default()).expect("a device");
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
            _ => clients.extend(listener.accept().ok().map(|(client, _)| {
                client.set_nonblocking(true).expect("not block");
                client
            })),
        }
    });
});
