//! A connection: accepted streams on one side, a driver that moves bytes on the other.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};

use super::frame::FrameError;
use super::reader::read_all;
use super::state::State;
use super::stream::Stream;
use super::writer::write_all;
use crate::node::lock;

/// Frames with data that wait to be written.
const QUEUE: usize = 8;

/// How long a connection that broke the protocol may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What streams send.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Data, or the end of it.
    Data { stream: u32, fin: bool, data: Bytes },
    /// Nothing follows.
    End,
}

/// What a connection's parts share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Frames of the streams; bounded, so that a slow client slows who writes.
    pub data: mpsc::Sender<Outgoing>,
    /// For the writer: answers wait.
    pub control: Notify,
    /// For the reader: something was taken.
    pub room: Notify,
    /// For who accepts streams: a stream, or the end.
    pub accept: Notify,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.wake_all();
        drop(state);
        self.accept.notify_waiters();
    }
}

/// The accepting side.
pub struct Connection(Arc<Shared>);

impl Connection {
    /// The next stream that the client opens; `None` once the connection is over. One caller at a time.
    pub async fn accept(&self) -> Option<Stream> {
        loop {
            let news = self.0.accept.notified();
            {
                let mut state = self.0.state();
                while let Some((id, headers)) = state.opened.pop_front() {
                    if let Some(wake) = state.wake_of(id) {
                        return Some(Stream::new(id, headers, self.0.clone(), wake));
                    }
                }
                if state.closed {
                    return None;
                }
            }
            news.await;
        }
    }

    /// No more will be said; what comes in is thrown away. The driver ends when the client has closed its side.
    pub async fn finish(&self) {
        self.0.state().finishing = true;
        self.0.room.notify_one();
        let _ = self.0.data.send(Outgoing::End).await;
    }
}

/// Takes a connection in hand, with at most `max_streams` streams at a time. The future moves its bytes and must
/// be polled; it ends with the connection.
pub fn connect<S>(stream: S, max_streams: usize) -> (Connection, impl Future<Output = Result<(), FrameError>>)
where
    S: AsyncRead + AsyncWrite,
{
    let (data, outgoing) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        state: Mutex::new(State::new(max_streams)),
        data,
        control: Notify::new(),
        room: Notify::new(),
        accept: Notify::new(),
    });
    let connection = Connection(shared.clone());
    let driver = async move {
        let (source, sink) = tokio::io::split(stream);
        let reading = read_all(&shared, source);
        let writing = write_all(&shared, sink, outgoing);
        tokio::pin!(reading, writing);
        let outcome = tokio::select! {
            read = &mut reading => {
                if matches!(read, Err(FrameError::Protocol(_))) {
                    let _ = tokio::time::timeout(FAREWELL, async {
                        // With the queue full there is nobody who reads.
                        let _ = shared.data.try_send(Outgoing::End);
                        writing.await
                    }).await;
                }
                read
            }
            written = &mut writing => match written {
                Ok(()) => reading.await,
                Err(e) => Err(e),
            },
        };
        shared.close();
        outcome
    };
    (connection, driver)
}
