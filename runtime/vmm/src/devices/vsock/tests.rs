//! The multiplexer between a guest that is made of headers, and real unix sockets.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vm_memory::VolatileSlice;

use super::connection::{BUFFER, LARGE_BUFFERS, SMALL_BUFFER};
use super::host;
use super::mux::{MAX_CONNECTIONS, Mux};
use super::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use crate::host_ports::{self, HostPorts};

const CID: u64 = 3;
const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

struct World {
    mux: Mux,
    socket: PathBuf,
    /// Where the guest's connections come to; None: nobody takes them.
    host: Option<UnixDatagram>,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock.sock");
        let (vmm, host) = host_ports::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let ports = Arc::new(HostPorts::new(Some(vmm)));
        let mux = Mux::new(CID, ports, host::listen(&socket).unwrap()).unwrap();
        Self { mux, socket, host: Some(host), _dir: dir }
    }

    /// A connection that the guest has made: the host's port and its end.
    fn accept(&self) -> Option<(u32, UnixStream)> {
        host_ports::accept(self.host.as_ref()?.as_fd()).ok()
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let mut data = data.to_vec();
        let slice = VolatileSlice::from(data.as_mut_slice());
        self.mux.take_packet(&header, |bytes| vec![slice.subslice(0, bytes).unwrap()]);
    }

    /// All that the guest gets now.
    fn receive(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            self.mux.serve_host();
            let mut room = vec![0; 4096];
            let packet = self.mux.next_packet(&[VolatileSlice::from(room.as_mut_slice())]);
            let Some(header) = packet else { return packets };
            room.truncate(header.length as usize);
            packets.push((header, room));
        }
    }

    fn receive_ops(&mut self) -> Vec<Op> {
        self.receive().into_iter().map(|(header, _)| header.op.unwrap()).collect()
    }

    /// A client of the host that asks for port 1000 of a guest with `room` bytes of buffer; the host's port.
    fn open(&mut self, room: u32) -> (UnixStream, u32) {
        let mut client = UnixStream::connect(&self.socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.write_all(b"CONNECT 1000\n").unwrap();
        let packets = self.receive();
        let request = packets[0].0;
        assert_eq!((request.op, request.destination_port, request.buffer), (Some(Op::Request), 1000, BUFFER));
        let port = request.source_port;
        self.send(Header { buffer: room, ..packet(Op::Response, 1000, port) }, &[]);
        let mut line = vec![0; format!("OK {port}\n").len()];
        client.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("OK {port}\n").as_bytes());
        (client, port)
    }
}

fn packet(op: Op, guest: u32, host: u32) -> Header {
    Header {
        source_cid: CID,
        destination_cid: 2,
        source_port: guest,
        destination_port: host,
        length: 0,
        kind: STREAM,
        op: Some(op),
        flags: 0,
        buffer: 1 << 20,
        forwarded: 0,
    }
}

fn data(guest: u32, host: u32, bytes: usize) -> Header {
    Header { length: bytes as u32, ..packet(Op::Data, guest, host) }
}

#[test]
fn a_client_reaches_the_guest_and_data_goes_both_ways() {
    let mut world = World::new();
    let (mut client, port) = world.open(1 << 20);
    client.write_all(b"to the guest").unwrap();
    let packets = world.receive();
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].0.op, packets[0].1.as_slice()), (Some(Op::Data), b"to the guest".as_slice()));
    world.send(data(1000, port, 11), b"to the host");
    let mut got = [0; 11];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"to the host");
    assert_eq!(world.mux.connections(), 1);
}

#[test]
fn the_guest_reaches_the_host_and_nobody_is_a_reset() {
    let mut world = World::new();
    world.send(packet(Op::Request, 5, 52), &[]);
    let (port, mut stream) = world.accept().unwrap();
    assert_eq!(port, 52);
    assert_eq!(world.receive_ops(), [Op::Response]);
    world.send(data(5, 52, 3), b"abc");
    let mut got = [0; 3];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"abc");
    // A second request for the same ports is against the rules.
    world.send(packet(Op::Request, 5, 52), &[]);
    assert_eq!((world.receive_ops(), world.mux.connections()), (vec![Op::Reset], 0));
    world.host = None;
    world.send(packet(Op::Request, 5, 52), &[]);
    assert_eq!((world.receive_ops(), world.mux.connections()), (vec![Op::Reset], 0));
}

#[test]
fn each_direction_ends_by_itself() {
    let mut world = World::new();
    let (mut client, port) = world.open(1 << 20);
    client.write_all(b"last").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = world.receive();
    assert_eq!((packets[0].0.op, packets[1].0.op), (Some(Op::Data), Some(Op::Shutdown)));
    assert_eq!(packets[1].0.flags, SHUTDOWN_SEND);
    world.send(data(1000, port, 6), b"answer");
    world.send(Header { flags: BOTH, ..packet(Op::Shutdown, 1000, port) }, &[]);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "answer");
    assert_eq!((world.receive_ops(), world.mux.connections()), (vec![Op::Reset], 0));
}

#[test]
fn a_client_that_leaves_is_told_to_the_guest() {
    let mut world = World::new();
    let (client, port) = world.open(1 << 20);
    drop(client);
    let packets = world.receive();
    assert_eq!((packets[0].0.op, packets[0].0.flags), (Some(Op::Shutdown), BOTH));
    // What is still on its way does no harm; the guest's reset ends it.
    world.send(data(1000, port, 3), b"abc");
    world.send(packet(Op::Reset, 1000, port), &[]);
    assert_eq!((world.receive_ops(), world.mux.connections()), (vec![], 0));
    // Also before the guest has answered.
    let mut client = UnixStream::connect(&world.socket).unwrap();
    client.write_all(b"CONNECT 1000\n").unwrap();
    assert_eq!(world.receive_ops(), [Op::Request]);
    drop(client);
    assert_eq!((world.receive_ops(), world.mux.connections()), (vec![Op::Reset], 0));
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let mut world = World::new();
    let (mut client, port) = world.open(10);
    client.write_all(b"0123456789abcdef").unwrap();
    let packets = world.receive();
    assert_eq!(packets[0].1, b"0123456789");
    assert_eq!((packets[1].0.op, packets.len()), (Some(Op::CreditRequest), 2));
    // It is asked once, however often it answers that it has none.
    world.send(Header { buffer: 10, ..packet(Op::CreditUpdate, 1000, port) }, &[]);
    assert!(world.receive_ops().is_empty());
    // It took four; a claim of more than it got gives nothing.
    let update = |forwarded| Header { buffer: 10, forwarded, ..packet(Op::CreditUpdate, 1000, port) };
    world.send(update(4), &[]);
    assert_eq!(world.receive()[0].1, b"abcd");
    world.send(update(1_000_000), &[]);
    let packets = world.receive();
    assert!(packets.iter().all(|(header, _)| header.op == Some(Op::CreditRequest)), "{packets:?}");
    world.send(update(14), &[]);
    assert_eq!(world.receive()[0].1, b"ef");
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut world = World::new();
    let (client, port) = world.open(1 << 20);
    let piece = vec![7; 32 << 10];
    let mut taken = 0;
    // The client reads nothing: its socket's buffer fills, then ours.
    while world.mux.connections() == 1 {
        world.send(data(1000, port, piece.len()), &piece);
        taken += piece.len();
        assert!(taken < 4 << 20, "no limit");
    }
    let last = world.receive().pop().unwrap();
    assert_eq!(last.0.op, Some(Op::Reset));
    drop(client);
}

#[test]
fn what_the_client_takes_late_comes_whole_and_makes_room() {
    let mut world = World::new();
    let (mut client, port) = world.open(1 << 20);
    let content: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 3) as u8).collect();
    let (mut sent, mut told, mut got) = (0, 0_u32, Vec::<u8>::new());
    while got.len() < content.len() {
        let room = (BUFFER - (sent as u32).wrapping_sub(told)) as usize;
        let piece = &content[sent..content.len().min(sent + room.min(20_000))];
        if !piece.is_empty() {
            world.send(data(1000, port, piece.len()), piece);
            sent += piece.len();
        }
        let mut part = vec![0; 30_000];
        client.set_nonblocking(true).unwrap();
        if let Ok(bytes) = client.read(&mut part) {
            got.extend(&part[..bytes]);
        }
        for (header, _) in world.receive() {
            assert_eq!(header.op, Some(Op::CreditUpdate));
            told = header.forwarded;
        }
    }
    assert!(got == content);
}

#[test]
fn a_stalled_connection_does_not_hold_up_another() {
    let mut world = World::new();
    let (mut stalled, _) = world.open(0);
    world.receive();
    let (mut busy, _) = world.open(1 << 20);
    stalled.write_all(&[1; 5000]).unwrap();
    busy.write_all(&[2; 20_000]).unwrap();
    let bytes: usize = world.receive().iter().map(|(_, data)| data.len()).sum();
    assert_eq!(bytes, 20_000);
    // Of two busy ones, neither waits for the other's end.
    let (mut other, other_port) = world.open(1 << 20);
    busy.write_all(&[2; 40_000]).unwrap();
    other.write_all(&[3; 8_000]).unwrap();
    let packets = world.receive();
    let place = packets.iter().position(|(header, _)| header.source_port == other_port).unwrap();
    assert!(place <= 2, "{place}");
}

#[test]
fn nonsense_is_reset_or_ignored() {
    let mut world = World::new();
    let (_client, port) = world.open(1 << 20);
    let good = packet(Op::Data, 1000, port);
    world.send(Header { source_cid: 99, ..good }, &[]);
    assert!(world.receive_ops().is_empty());
    for bad in [
        Header { kind: 2, ..good },
        Header { op: None, ..good },
        Header { destination_cid: 77, ..good },
        packet(Op::Data, 1, 1),
        packet(Op::CreditUpdate, 1, 1),
        packet(Op::Shutdown, 1, 1),
        packet(Op::Response, 1, 1),
    ] {
        world.send(bad, &[]);
        let packets = world.receive();
        assert_eq!((packets.len(), packets[0].0.op), (1, Some(Op::Reset)), "{bad:?}");
        assert_eq!(packets[0].0.source_cid, bad.destination_cid);
    }
    world.send(Header { kind: 2, ..packet(Op::Reset, 1000, port) }, &[]);
    world.send(packet(Op::Reset, 1, 1), &[]);
    assert!(world.receive_ops().is_empty());
    assert_eq!(world.mux.connections(), 1);
    // A second answer is one too many.
    world.send(packet(Op::Response, 1000, port), &[]);
    assert_eq!((world.receive_ops(), world.mux.connections()), (vec![Op::Reset], 0));
}

#[test]
fn connections_and_owed_resets_are_bounded() {
    let mut world = World::new();
    let mut accepted = Vec::new();
    for guest in 0..MAX_CONNECTIONS as u32 + 10 {
        world.send(packet(Op::Request, guest, 52), &[]);
        accepted.extend(world.accept());
    }
    assert_eq!(world.mux.connections(), MAX_CONNECTIONS);
    let resets = world.receive_ops().into_iter().filter(|op| *op == Op::Reset).count();
    assert_eq!(resets, 10);
    // A client waits until there is room.
    let mut client = UnixStream::connect(&world.socket).unwrap();
    client.write_all(b"CONNECT 1000\n").unwrap();
    assert!(world.receive_ops().is_empty());
    world.send(packet(Op::Reset, 7, 52), &[]);
    assert_eq!(world.receive_ops(), [Op::Request]);
    for guest in 0..100_000 {
        world.send(packet(Op::Data, guest, 1), &[]);
    }
    assert_eq!(world.receive_ops().len(), MAX_CONNECTIONS);
}

#[test]
fn credit_is_told_though_nothing_else_is() {
    let mut world = World::new();
    let (mut client, port) = world.open(1 << 20);
    let mut told = 0;
    for round in 1..=20 {
        world.send(data(1000, port, 8000), &[1; 8000]);
        client.read_exact(&mut [0; 8000]).unwrap();
        // The client has taken data, which is an event of its socket, and has nothing to say.
        for (header, _) in world.receive() {
            told = header.forwarded;
        }
        assert!(round * 8000 - told <= BUFFER / 2, "{told} of {} bytes in round {round}", round * 8000);
    }
}

#[test]
fn of_many_connections_the_later_ones_have_small_buffers() {
    let mut world = World::new();
    let mut open: Vec<_> = (0..LARGE_BUFFERS).map(|_| world.open(1 << 20)).collect();
    let mut late = UnixStream::connect(&world.socket).unwrap();
    late.write_all(b"CONNECT 1000\n").unwrap();
    let request = world.receive()[0].0;
    assert_eq!((request.op, request.buffer), (Some(Op::Request), SMALL_BUFFER));
    world.send(Header { buffer: 1 << 20, ..packet(Op::Response, 1000, request.source_port) }, &[]);
    // Nobody reads: what the socket does not take is buffered, up to the bound and no further.
    for (port, most) in [(request.source_port, SMALL_BUFFER), (open[0].1, BUFFER)] {
        let piece = vec![1; 16 << 10];
        let mut sent = 0;
        let ended = loop {
            world.send(data(1000, port, piece.len()), &piece);
            sent += piece.len() as u32;
            if let Some((last, _)) = world.receive().pop().filter(|(last, _)| last.op == Some(Op::Reset)) {
                break last;
            }
            assert!(sent < 4 << 20, "no limit");
        };
        assert_eq!(ended.destination_port, 1000);
        assert!(sent > most, "{sent} of {most}");
    }
    open.clear();
}
