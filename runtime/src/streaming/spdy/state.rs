//! What a connection's reader, writer and streams share: which streams are open, their windows and what waits
//! in them.
//!
//! Windows (SPDY/3.1 draft, section 2.6.8) are told and kept. Go's spdystream, which kubectl, crictl and kubelet
//! use, knows nothing of them: it sends without asking and never makes room. A peer that has not spoken of
//! windows is therefore held back by not reading on from its connection, and is sent to without a window; one
//! that has is held to them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::Reset;
use super::headers::Headers;

/// A window's size at the beginning, bytes, of each stream and of the connection (section 2.6.8).
pub const WINDOW: i64 = 64 << 10;

/// What the connection's own window is made, so that a stream which nobody reads leaves room for others; and the
/// most bytes that wait in all streams together.
pub const CONNECTION_WINDOW: i64 = 1 << 20;

/// The most answers that wait for a peer that does not read them.
const MAX_CONTROL: usize = 8192;

/// A frame that the connection itself sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Control {
    /// The stream is taken.
    Reply(u32),
    /// The stream is not, or not any more.
    Reset(u32, Reset),
    /// A ping's way back.
    Pong(u32),
    /// Room for so many bytes more.
    Window(u32, u32),
}

/// One stream that somebody still holds.
pub struct Entry {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// Bytes that the peer may still send; below 0 only for one that ignores windows.
    receive: i64,
    /// Bytes taken out and not yet given back as room.
    taken: u32,
    send: i64,
    remote_done: bool,
    local_done: bool,
    /// Data, room or the end.
    pub wake: Arc<Notify>,
}

/// What is to be done with data that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Give it to the stream.
    Wanted,
    /// Read it and throw it away.
    Unwanted,
}

/// What a reader of a stream finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Data.
    Data(Bytes),
    /// Nothing more will come.
    End,
    /// Nothing yet.
    Nothing,
}

/// The state.
pub struct State {
    entries: HashMap<u32, Entry>,
    max_streams: usize,
    last: u32,
    /// Streams that nobody has taken yet.
    pub opened: VecDeque<(u32, Headers)>,
    /// To be written before any data.
    pub control: VecDeque<Control>,
    peer_keeps_windows: bool,
    initial_send: i64,
    send: i64,
    receive: i64,
    taken: u32,
    buffered: usize,
    /// All is over.
    pub closed: bool,
    /// The peer is told that it broke the protocol.
    pub go_away: bool,
    /// Nothing that comes is wanted any more.
    pub finishing: bool,
    /// When a stream last moved.
    pub moved: Instant,
}

impl State {
    /// Of a connection that has at most `max_streams` streams at a time.
    pub fn new(max_streams: usize) -> Self {
        State {
            entries: HashMap::new(),
            max_streams,
            last: 0,
            opened: VecDeque::new(),
            control: VecDeque::from([Control::Window(0, (CONNECTION_WINDOW - WINDOW) as u32)]),
            peer_keeps_windows: false,
            initial_send: WINDOW,
            send: WINDOW,
            receive: CONNECTION_WINDOW,
            taken: 0,
            buffered: 0,
            closed: false,
            go_away: false,
            finishing: false,
            moved: Instant::now(),
        }
    }

    /// The stream that the peer opened last.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// An entry's bell.
    pub fn wake_of(&self, id: u32) -> Option<Arc<Notify>> {
        self.entries.get(&id).map(|entry| entry.wake.clone())
    }

    /// Adds an answer; an error when the peer lets them pile up.
    pub fn answer(&mut self, control: Control) -> Result<(), String> {
        if self.control.len() >= MAX_CONTROL {
            return Err(format!("{MAX_CONTROL} answers wait, and none is read"));
        }
        self.control.push_back(control);
        Ok(())
    }

    /// A new stream of the peer's (section 2.3.2): its number is odd and higher than any before.
    pub fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), String> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(format!("a new stream {id} after stream {}", self.last));
        }
        self.last = id;
        self.moved = Instant::now();
        if self.entries.len() >= self.max_streams || self.finishing {
            return self.answer(Control::Reset(id, Reset::RefusedStream));
        }
        let entry = Entry {
            chunks: VecDeque::new(),
            buffered: 0,
            receive: WINDOW,
            taken: 0,
            send: self.initial_send,
            remote_done: fin,
            local_done: false,
            wake: Arc::default(),
        };
        self.entries.insert(id, entry);
        self.opened.push_back((id, headers));
        self.answer(Control::Reply(id))
    }

    /// `length` bytes are announced for a stream.
    pub fn announced(&mut self, id: u32, length: usize) -> Result<Arrival, String> {
        self.moved = Instant::now();
        self.receive -= length as i64;
        if self.peer_keeps_windows && self.receive < 0 {
            return Err(format!("{} bytes more than the connection's window", -self.receive));
        }
        let finishing = self.finishing;
        let (violation, arrival) = match self.entries.get_mut(&id) {
            Some(entry) if entry.remote_done => (Some(Reset::AlreadyClosed), Arrival::Unwanted),
            Some(entry) => {
                entry.receive -= length as i64;
                if self.peer_keeps_windows && entry.receive < 0 {
                    (Some(Reset::FlowControl), Arrival::Unwanted)
                } else if finishing {
                    (None, Arrival::Unwanted)
                } else {
                    (None, Arrival::Wanted)
                }
            }
            None if id > self.last || id.is_multiple_of(2) => (Some(Reset::InvalidStream), Arrival::Unwanted),
            // It was closed here while this was on its way.
            None => (None, Arrival::Unwanted),
        };
        if let Some(status) = violation {
            self.end(id);
            self.answer(Control::Reset(id, status))?;
        }
        if arrival == Arrival::Unwanted {
            self.give_back(length)?;
        }
        Ok(arrival)
    }

    /// A piece of wanted data; may be too late for its stream.
    pub fn arrived(&mut self, id: u32, data: Bytes) -> Result<(), String> {
        match self.entries.get_mut(&id) {
            Some(entry) if !entry.remote_done => {
                self.buffered += data.len();
                entry.buffered += data.len();
                entry.chunks.push_back(data);
                entry.wake.notify_waiters();
                Ok(())
            }
            _ => self.give_back(data.len()),
        }
    }

    /// Whether the reader must not read on for this stream yet.
    pub fn is_full(&self, id: u32) -> bool {
        let full =
            |entry: &Entry| entry.buffered >= WINDOW as usize || self.buffered >= CONNECTION_WINDOW as usize;
        !self.finishing && self.entries.get(&id).is_some_and(|entry| !entry.remote_done && full(entry))
    }

    /// The peer's half of a stream is at its end.
    pub fn finished(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.remote_done = true;
            entry.wake.notify_waiters();
        }
    }

    /// Both halves of a stream are at their end: nothing is sent on it, what came can still be read.
    pub fn end(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id) {
            (entry.remote_done, entry.local_done) = (true, true);
            entry.wake.notify_waiters();
        }
    }

    /// The peer makes room.
    pub fn window(&mut self, id: u32, delta: u32) -> Result<(), String> {
        self.peer_keeps_windows = true;
        let window = match (id, self.entries.get_mut(&id)) {
            (0, _) => &mut self.send,
            (_, Some(entry)) => &mut entry.send,
            (_, None) => return Ok(()),
        };
        *window += i64::from(delta);
        if *window > i64::from(i32::MAX) {
            return Err(format!("a window of {window} bytes for stream {id}"));
        }
        self.wake_all();
        Ok(())
    }

    /// The peer's wish for the windows of its streams.
    pub fn initial_window(&mut self, size: u32) -> Result<(), String> {
        let size = i32::try_from(size).map_err(|_| format!("an initial window of {size} bytes"))?;
        self.peer_keeps_windows = true;
        let change = i64::from(size) - self.initial_send;
        self.initial_send = i64::from(size);
        for entry in self.entries.values_mut() {
            entry.send += change;
        }
        self.wake_all();
        Ok(())
    }

    /// Takes what a stream has, and makes room for more. The flag: the writer has something to do.
    pub fn take(&mut self, id: u32) -> (Taken, bool) {
        let closed = self.closed;
        let Some(entry) = self.entries.get_mut(&id) else { return (Taken::End, false) };
        let Some(data) = entry.chunks.pop_front() else {
            return (if entry.remote_done || closed { Taken::End } else { Taken::Nothing }, false);
        };
        entry.buffered -= data.len();
        self.buffered -= data.len();
        entry.taken += data.len() as u32;
        let mut news = false;
        if i64::from(entry.taken) >= WINDOW / 2 && !entry.remote_done {
            let room = std::mem::take(&mut entry.taken);
            entry.receive += i64::from(room);
            news = self.answer(Control::Window(id, room)).is_ok();
        }
        // A full queue of answers ends the connection by the reader's hand.
        news |= self.give_back(data.len()).is_ok();
        (Taken::Data(data), news)
    }

    /// Bytes of the connection's window have been taken.
    fn give_back(&mut self, length: usize) -> Result<(), String> {
        self.taken += length as u32;
        if i64::from(self.taken) < WINDOW / 2 {
            return Ok(());
        }
        let room = std::mem::take(&mut self.taken);
        self.receive += i64::from(room);
        self.answer(Control::Window(0, room))
    }

    /// How many of `wanted` bytes may be sent on a stream now, which counts them as sent; `None`: never again.
    pub fn reserve(&mut self, id: u32, wanted: usize) -> Option<usize> {
        let entry = self.entries.get_mut(&id).filter(|entry| !entry.local_done)?;
        if self.closed {
            return None;
        }
        self.moved = Instant::now();
        let room = match self.peer_keeps_windows {
            true => usize::try_from(entry.send.min(self.send)).unwrap_or(0).min(wanted),
            false => wanted,
        };
        entry.send -= room as i64;
        self.send -= room as i64;
        Some(room)
    }

    /// Our half of a stream is at its end; whether it was not before.
    pub fn finish(&mut self, id: u32) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if !entry.local_done => {
                entry.local_done = true;
                true
            }
            _ => false,
        }
    }

    /// Nobody holds the stream any more. What was not finished is cancelled; after our end of it the peer may
    /// say what it likes.
    pub fn forget(&mut self, id: u32) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.buffered -= entry.buffered;
        let told = match entry.local_done {
            true => Ok(()),
            false => self.answer(Control::Reset(id, Reset::Cancel)),
        };
        if told.and_then(|()| self.give_back(entry.buffered)).is_err() {
            self.closed = true;
        }
    }

    /// Wakes whoever waits for a stream.
    pub fn wake_all(&self) {
        for entry in self.entries.values() {
            entry.wake.notify_waiters();
        }
    }
}
