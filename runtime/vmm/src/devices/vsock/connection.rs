//! One stream between a port of the guest and a unix socket of the host.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_send_buffer_size;
use vm_memory::VolatileSlice;

use super::packet::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::sys;

/// What the guest may send before the host's side has taken it: the most that a connection buffers.
pub const BUFFER: u32 = 256 << 10;
/// The same of a connection that is opened beside many others, so that all together hold no more than 80 MiB.
pub const SMALL_BUFFER: u32 = 64 << 10;
/// How many may be open when another one is given a large buffer.
pub const LARGE_BUFFERS: usize = 64;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The guest was asked and has not answered.
    Requested,
    /// Data goes both ways.
    Open,
    /// The host's side is closed; the guest has to say that it is done.
    Closing,
}

/// The guest broke the protocol, or the host's side is gone: the connection is reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// Control packets that the guest is to get.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    shutdown: Option<u32>,
    credit_request: bool,
    credit_update: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Where it is.
    pub stage: Stage,
    /// Whether it waits in the multiplexer's line.
    pub queued: bool,
    owed: Owed,
    /// The host's side has, or may have, data or its end for us. Its events come once.
    readable: bool,
    /// The host's side sends no more, and the guest was told.
    host_done: bool,
    /// The host's side has closed both ways.
    host_gone: bool,
    /// The guest sends no more.
    guest_done: bool,
    /// The guest takes no more.
    guest_deaf: bool,
    /// From the guest, not yet taken by the host's side; the most bytes that this may be.
    pending: VecDeque<u8>,
    buffer: u32,
    /// Bytes that the guest's data had in all, modulo 2^32, and how many the host's side has taken.
    received: u32,
    forwarded: u32,
    forwarded_told: u32,
    /// Bytes sent to the guest, and the guest's own view of its buffer.
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    credit_asked: bool,
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Connection {
    /// `others` are open already.
    fn new(stream: UnixStream, others: usize, stage: Stage, owed: Owed) -> Self {
        let buffer = if others < LARGE_BUFFERS { BUFFER } else { SMALL_BUFFER };
        if buffer == BUFFER {
            // Where the guest may send so much, the system shall take it at once. It may allow less.
            let _ = set_socket_send_buffer_size(&stream, BUFFER as usize);
        }
        Self {
            stream,
            stage,
            queued: false,
            owed,
            readable: true,
            host_done: false,
            host_gone: false,
            guest_done: false,
            guest_deaf: false,
            pending: VecDeque::new(),
            buffer,
            received: 0,
            forwarded: 0,
            forwarded_told: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            credit_asked: false,
        }
    }

    /// The host's side wants a port of the guest, which has `others` open.
    pub fn request(stream: UnixStream, others: usize) -> Self {
        Self::new(stream, others, Stage::Requested, Owed { request: true, ..Owed::default() })
    }

    /// The guest, which has `others` open, wanted the host's side, and it has accepted.
    pub fn respond(stream: UnixStream, others: usize) -> Self {
        Self::new(stream, others, Stage::Open, Owed { response: true, ..Owed::default() })
    }

    /// The guest has accepted; `greeting` is for the host's side, before any data.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn accepted(&mut self, greeting: &[u8]) -> Result<(), Broken> {
        if self.stage != Stage::Requested {
            return Err(Broken);
        }
        self.stage = Stage::Open;
        // The first bytes into an empty socket buffer: they fit, or its other end is gone.
        match send(&self.stream, greeting) {
            Ok(sent) if sent == greeting.len() => Ok(()),
            _ => Err(Broken),
        }
    }

    /// Notes what the guest says of its buffer, as every packet does.
    pub fn credit(&mut self, buffer: u32, forwarded: u32) {
        self.guest_buffer = buffer;
        self.guest_forwarded = forwarded;
        // Otherwise the question stands: a guest without room would be asked with every answer.
        if self.credit_left() > 0 {
            self.credit_asked = false;
        }
    }

    /// The guest asks what it may send.
    pub fn credit_requested(&mut self) {
        self.owed.credit_update = true;
    }

    /// Bytes that the guest has room for. A guest that claims to have taken more than it got has none.
    fn credit_left(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_buffer.saturating_sub(in_flight) as usize
    }

    /// Data of the guest, in pieces.
    ///
    /// # Errors
    /// [`Broken`], also when the guest sends more than it was allowed to.
    pub fn data(&mut self, slices: &[VolatileSlice<'_>], bytes: u32) -> Result<(), Broken> {
        let held = self.received.wrapping_sub(self.forwarded);
        if self.guest_done || self.stage == Stage::Requested || bytes > self.buffer - held.min(self.buffer) {
            return Err(Broken);
        }
        if self.stage == Stage::Closing {
            return Ok(());
        }
        self.received = self.received.wrapping_add(bytes);
        let mut direct = 0;
        if self.pending.is_empty() {
            direct = match sys::send(self.stream.as_fd(), slices) {
                Ok(sent) => sent,
                Err(error) if again(&error) => 0,
                Err(_) => return Err(Broken),
            };
            self.forwarded = self.forwarded.wrapping_add(direct as u32);
        }
        let mut copy = Vec::new();
        for slice in slices {
            let skip = direct.min(slice.len());
            direct -= skip;
            if let Ok(rest) = slice.offset(skip) {
                copy.resize(rest.len(), 0);
                rest.copy_to(&mut copy);
                self.pending.extend(&copy);
            }
        }
        self.update_credit();
        Ok(())
    }

    /// The host's side can take more, or may be able to.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn flush(&mut self) -> Result<(), Broken> {
        while !self.pending.is_empty() {
            let (first, _) = self.pending.as_slices();
            match send(&self.stream, first) {
                Ok(sent) => {
                    self.pending.drain(..sent);
                    self.forwarded = self.forwarded.wrapping_add(sent as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if again(&error) => break,
                Err(_) => return Err(Broken),
            }
        }
        if self.pending.is_empty() {
            // An idle connection holds no buffer.
            self.pending.shrink_to_fit();
            if self.guest_done {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        self.update_credit();
        Ok(())
    }

    /// The guest is told of room once half of it was taken since it last heard: each word interrupts it.
    fn update_credit(&mut self) {
        if self.forwarded.wrapping_sub(self.forwarded_told) >= self.buffer / 2 {
            self.owed.credit_update = true;
        }
    }

    /// The guest has closed one or both directions.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn guest_shutdown(&mut self, flags: u32) -> Result<(), Broken> {
        if self.stage == Stage::Requested {
            return Err(Broken);
        }
        self.guest_done |= flags & SHUTDOWN_SEND != 0;
        if flags & SHUTDOWN_RECEIVE != 0 && !self.guest_deaf {
            self.guest_deaf = true;
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.flush()
    }

    /// Whether nothing is left to do but to confirm the end to the guest with a reset.
    pub fn finished(&self) -> bool {
        self.guest_done && self.guest_deaf && (self.pending.is_empty() || self.stage == Stage::Closing)
    }

    /// Whether the host's side has to take something before more can be given to it.
    pub fn wants_room(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The host's side may have data or its end. `gone`: it has closed both ways.
    pub fn wake(&mut self, gone: bool) {
        self.readable = true;
        self.host_gone |= gone;
    }

    /// Whether the host's side has left while the guest had not answered yet.
    pub fn abandoned(&self) -> bool {
        self.stage == Stage::Requested && self.host_gone
    }

    fn can_read(&self) -> bool {
        self.readable && self.stage == Stage::Open && !self.host_done && !self.guest_deaf
    }

    /// Whether there is something for the guest.
    pub fn ready(&self) -> bool {
        let owed = &self.owed;
        owed.request
            || owed.response
            || owed.shutdown.is_some()
            || owed.credit_request
            || owed.credit_update
            || (self.can_read() && (self.credit_left() > 0 || !self.credit_asked))
    }

    /// The next packet for the guest: its operation, flags and bytes of data, which `room` provides space
    /// for. None when there turns out to be nothing.
    pub fn next_packet(&mut self, room: &[VolatileSlice<'_>]) -> Option<(Op, u32, usize)> {
        let owed = &mut self.owed;
        if std::mem::take(&mut owed.request) {
            return Some((Op::Request, 0, 0));
        }
        if std::mem::take(&mut owed.response) {
            return Some((Op::Response, 0, 0));
        }
        if std::mem::take(&mut owed.credit_update) {
            return Some((Op::CreditUpdate, 0, 0));
        }
        if let Some(packet) = self.read(room) {
            return Some(packet);
        }
        if std::mem::take(&mut self.owed.credit_request) {
            return Some((Op::CreditRequest, 0, 0));
        }
        let flags = self.owed.shutdown.take()?;
        Some((Op::Shutdown, flags, 0))
    }

    /// What the host's side sends.
    fn read(&mut self, room: &[VolatileSlice<'_>]) -> Option<(Op, u32, usize)> {
        if !self.can_read() {
            return None;
        }
        let credit = self.credit_left();
        if credit == 0 {
            self.owed.credit_request = !std::mem::replace(&mut self.credit_asked, true);
            return None;
        }
        let mut left = credit;
        let mut slices = Vec::with_capacity(room.len());
        for slice in room {
            let part = slice.subslice(0, left.min(slice.len())).ok()?;
            left -= part.len();
            slices.push(part);
        }
        match sys::read(self.stream.as_fd(), &slices) {
            Ok(0) => {
                self.host_done = true;
                if self.host_gone {
                    self.stage = Stage::Closing;
                }
                self.owed.shutdown = Some(self.shutdown_flags());
                None
            }
            Ok(bytes) => {
                self.sent = self.sent.wrapping_add(bytes as u32);
                Some((Op::Data, 0, bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) if again(&error) => {
                self.readable = false;
                None
            }
            // Reset by its peer: what the guest gets is an end.
            Err(_) => {
                self.host_done = true;
                self.stage = Stage::Closing;
                self.owed.shutdown = Some(SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
                None
            }
        }
    }

    fn shutdown_flags(&self) -> u32 {
        if self.host_gone { SHUTDOWN_RECEIVE | SHUTDOWN_SEND } else { SHUTDOWN_SEND }
    }

    /// Notices that the host's side, which had ended its sending, is gone altogether.
    pub fn notice_hangup(&mut self) {
        if self.host_gone && self.host_done && self.stage == Stage::Open {
            self.stage = Stage::Closing;
            self.owed.shutdown = Some(self.shutdown_flags());
        }
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that is about to go.
    pub fn tell_credit(&mut self) -> (u32, u32) {
        self.forwarded_told = self.forwarded;
        (self.buffer, self.forwarded)
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}
