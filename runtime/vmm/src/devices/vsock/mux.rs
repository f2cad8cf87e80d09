//! All connections of a guest: which packet belongs to which, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Broken, Connection, Stage};
use super::host::{self, Greeting};
use super::packet::{Header, Op, STREAM};
use crate::host_ports::HostPorts;

/// `VMADDR_CID_HOST`.
const HOST_CID: u64 = 2;
/// Connections, counting those that have not said yet what they want.
pub const MAX_CONNECTIONS: usize = 1023;
/// Ports of the host's ends of connections that the host makes.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Events taken at once.
const EVENTS: usize = 64;
/// Data of the listener's events; connections count from 1.
const LISTENER: u64 = 0;

/// The two ports that tell one connection from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    host: u32,
    guest: u32,
}

/// A reset owed for a packet of no connection, or for one that is gone.
struct Reset {
    /// The CID that the guest has addressed.
    cid: u64,
    ports: Ports,
}

struct Entry {
    ports: Ports,
    connection: Connection,
    /// Whether its stream is watched for room.
    watched_for_room: bool,
}

/// What a stream is watched for: data and its end.
fn always() -> EventSet {
    EventSet::IN | EventSet::READ_HANG_UP
}

/// The multiplexer.
pub struct Mux {
    cid: u64,
    host: Arc<HostPorts>,
    listener: UnixListener,
    epoll: Epoll,
    next_id: u64,
    next_port: u32,
    /// Clients that have not said "CONNECT port" yet.
    greeting: HashMap<u64, UnixStream>,
    connections: HashMap<u64, Entry>,
    ids: HashMap<Ports, u64>,
    /// Connections with something for the guest; each has one packet before the next has its turn.
    line: VecDeque<u64>,
    resets: VecDeque<Reset>,
    /// A client could not be accepted for want of descriptors or room.
    accept_again: bool,
}

impl Mux {
    /// A multiplexer without connections.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(cid: u64, host: Arc<HostPorts>, listener: UnixListener) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        watch(&epoll, listener.as_raw_fd(), LISTENER, EventSet::IN)?;
        Ok(Self {
            cid,
            host,
            listener,
            epoll,
            next_id: LISTENER + 1,
            next_port: FIRST_HOST_PORT,
            greeting: HashMap::new(),
            connections: HashMap::new(),
            ids: HashMap::new(),
            line: VecDeque::new(),
            resets: VecDeque::new(),
            accept_again: false,
        })
    }

    /// Becomes readable when [`Self::serve_host`] has something to do.
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// How many connections, clients that become one and answers to the guest there are.
    pub fn at_work(&self) -> usize {
        self.connections.len() + self.greeting.len() + self.resets.len()
    }

    /// Serves what has happened on the host's sockets, a bounded number of events.
    pub fn serve_host(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        // An error other than EINTR cannot be; what is missed comes again.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in events.iter().take(count) {
            let id = event.data();
            let set = event.event_set();
            if id == LISTENER {
                self.accept();
            } else if self.greeting.contains_key(&id) {
                self.greet(id);
            } else {
                self.wake(id, set);
            }
        }
        if self.accept_again {
            self.accept();
        }
    }

    fn has_room(&mut self) -> bool {
        if self.connections.len() + self.greeting.len() < MAX_CONNECTIONS {
            return true;
        }
        // One whose host's side is closed only waits for the guest to agree.
        let closing = self.connections.iter().find(|(_, entry)| entry.connection.stage == Stage::Closing);
        let Some(id) = closing.map(|(id, _)| *id) else { return false };
        self.reset(id);
        true
    }

    fn accept(&mut self) {
        self.accept_again = false;
        loop {
            if !self.has_room() {
                self.accept_again = true;
                return;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.accept_again = true;
                    return;
                }
            };
            let id = self.new_id();
            if stream.set_nonblocking(true).is_ok() && self.watch_stream(id, &stream) {
                self.greeting.insert(id, stream);
                // Its line may have come before it was watched: then no event tells.
                self.greet(id);
            }
        }
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn watch_stream(&self, id: u64, stream: &UnixStream) -> bool {
        watch(&self.epoll, stream.as_raw_fd(), id, always()).is_ok()
    }

    /// Watches a connection's stream for room as long as something waits for it: a stream with room at all times would
    /// wake the thread whenever its other end has read.
    fn watch_for_room(&mut self, id: u64) {
        let Some(Entry { connection, watched_for_room, .. }) = self.connections.get_mut(&id) else { return };
        let wanted = connection.wants_room();
        if wanted == *watched_for_room {
            return;
        }
        let events = if wanted { always() | EventSet::OUT } else { always() } | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, id);
        // What is there already comes as an event as well.
        match self.epoll.ctl(ControlOperation::Modify, connection.as_raw_fd(), event) {
            Ok(()) => *watched_for_room = wanted,
            Err(error) => crate::fact!("vsock: a stream cannot be watched: {error}"),
        }
    }

    fn greet(&mut self, id: u64) {
        let Some(stream) = self.greeting.remove(&id) else { return };
        match host::greeting(&stream) {
            Greeting::Incomplete => {
                self.greeting.insert(id, stream);
            }
            Greeting::Connect(guest) => {
                let ports = Ports { host: self.new_port(guest), guest };
                self.insert(id, ports, Connection::request(stream, self.connections.len()));
            }
            Greeting::Bad => {}
        }
    }

    /// A port that no connection to `guest` has: there are far more ports than connections.
    fn new_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.ids.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn insert(&mut self, id: u64, ports: Ports, connection: Connection) {
        self.ids.insert(ports, id);
        self.connections.insert(id, Entry { ports, connection, watched_for_room: false });
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: u64) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        if entry.connection.ready() && !entry.connection.queued {
            entry.connection.queued = true;
            self.line.push_back(id);
        }
    }

    fn wake(&mut self, id: u64, set: EventSet) {
        let Some(Entry { connection, .. }) = self.connections.get_mut(&id) else { return };
        let gone = EventSet::HANG_UP | EventSet::ERROR;
        if set.intersects(always() | gone) {
            connection.wake(set.intersects(gone));
        }
        let flushed = connection.flush();
        connection.notice_hangup();
        self.settle(id, flushed);
    }

    /// Puts a connection into the line, or ends it if it has come to its end.
    fn settle(&mut self, id: u64, outcome: Result<(), Broken>) {
        let Some(Entry { connection, .. }) = self.connections.get(&id) else { return };
        if outcome.is_err() || connection.finished() || connection.abandoned() {
            self.reset(id);
        } else {
            self.enqueue(id);
            self.watch_for_room(id);
        }
    }

    fn reset(&mut self, id: u64) {
        if let Some(ports) = self.remove(id) {
            self.owe_reset(HOST_CID, ports);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Ports> {
        let entry = self.connections.remove(&id)?;
        self.ids.remove(&entry.ports);
        drop(entry.connection);
        if self.accept_again {
            self.accept();
        }
        Some(entry.ports)
    }

    fn owe_reset(&mut self, cid: u64, ports: Ports) {
        // A guest that makes more than this without taking them can do without the rest.
        if self.resets.len() < MAX_CONNECTIONS {
            self.resets.push_back(Reset { cid, ports });
        }
    }

    /// Serves a packet of the guest; `data` gives the bytes behind its header, which are at least as many as
    /// the header says.
    pub fn take_packet<'a>(&mut self, header: &Header, data: impl Fn(usize) -> Vec<VolatileSlice<'a>>) {
        if header.source_cid != self.cid {
            return;
        }
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        let op = match header.op {
            Some(op) if header.kind == STREAM && header.destination_cid == HOST_CID => op,
            Some(Op::Reset) => return,
            _ => return self.owe_reset(header.destination_cid, ports),
        };
        let id = match (op, self.ids.get(&ports)) {
            (_, Some(id)) => *id,
            (Op::Request, None) => return self.connect(header, ports),
            (Op::Reset, None) => return,
            (_, None) => return self.owe_reset(HOST_CID, ports),
        };
        let Some(Entry { connection, .. }) = self.connections.get_mut(&id) else { return };
        connection.credit(header.buffer, header.forwarded);
        let outcome = match op {
            Op::Response => connection.accepted(format!("OK {}\n", ports.host).as_bytes()),
            Op::Data => connection.data(&data(header.length as usize), header.length),
            Op::Shutdown => connection.guest_shutdown(header.flags),
            Op::CreditRequest => {
                connection.credit_requested();
                Ok(())
            }
            Op::CreditUpdate => Ok(()),
            Op::Request => Err(Broken),
            Op::Reset => {
                self.remove(id);
                return;
            }
        };
        self.settle(id, outcome);
    }

    fn connect(&mut self, header: &Header, ports: Ports) {
        let stream = if self.has_room() { self.host.connect(ports.host).ok() } else { None };
        let id = self.new_id();
        match stream.filter(|stream| self.watch_stream(id, stream)) {
            Some(stream) => {
                let mut connection = Connection::respond(stream, self.connections.len());
                connection.credit(header.buffer, header.forwarded);
                self.insert(id, ports, connection);
            }
            None => self.owe_reset(HOST_CID, ports),
        }
    }

    /// Whether there may be something for the guest.
    pub fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    /// The next packet for the guest, its data put into `room`.
    pub fn next_packet(&mut self, room: &[VolatileSlice<'_>]) -> Option<Header> {
        if let Some(Reset { cid, ports }) = self.resets.pop_front() {
            return Some(Header { source_cid: cid, ..self.header(ports, Op::Reset) });
        }
        while let Some(id) = self.line.pop_front() {
            let Some(Entry { ports, connection, .. }) = self.connections.get_mut(&id) else { continue };
            connection.queued = false;
            let ports = *ports;
            let packet = connection.next_packet(room);
            // Only what is really sent tells: credit noted as told without a packet would be lost to the guest.
            let told = packet.map(|packet| (packet, connection.tell_credit()));
            self.enqueue(id);
            if let Some(((op, flags, bytes), (buffer, forwarded))) = told {
                let length = bytes as u32;
                return Some(Header { flags, length, buffer, forwarded, ..self.header(ports, op) });
            }
        }
        None
    }

    fn header(&self, ports: Ports, op: Op) -> Header {
        Header {
            source_cid: HOST_CID,
            destination_cid: self.cid,
            source_port: ports.host,
            destination_port: ports.guest,
            length: 0,
            kind: STREAM,
            op: Some(op),
            flags: 0,
            buffer: 0,
            forwarded: 0,
        }
    }
}

fn watch(epoll: &Epoll, fd: RawFd, data: u64, events: EventSet) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events | EventSet::EDGE_TRIGGERED, data))
}
