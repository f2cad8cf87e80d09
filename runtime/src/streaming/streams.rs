//! What the two transports have in common: streams of bytes in and out.

use std::sync::Arc;

use bytes::Bytes;

use super::spdy;
use super::websocket::channels::{Receiver, Sender};

pub use super::spdy::Gone;

/// Bytes from the client.
pub enum Input {
    /// A SPDY stream.
    Spdy(Arc<spdy::Stream>),
    /// A channel of a WebSocket.
    Channel(Receiver),
}

/// Bytes to the client.
pub enum Output {
    /// A SPDY stream.
    Spdy(Arc<spdy::Stream>),
    /// A channel of a WebSocket.
    Channel(Sender),
}

impl Input {
    /// What comes next; `None` at the end.
    pub async fn read(&mut self) -> Option<Bytes> {
        match self {
            Input::Spdy(stream) => stream.read().await,
            Input::Channel(channel) => channel.read().await,
        }
    }

    /// Reads to the end and keeps nothing.
    pub async fn discard(&mut self) {
        while self.read().await.is_some() {}
    }
}

impl Output {
    /// Sends all of it, as fast as the client takes it.
    pub async fn write(&self, data: Bytes) -> Result<(), Gone> {
        match self {
            Output::Spdy(stream) => stream.write(data).await,
            Output::Channel(channel) => channel.write(data).await,
        }
    }

    /// Says that nothing follows, where the protocol has words for it: a WebSocket ends all its channels at once.
    pub async fn finish(&self) {
        if let Output::Spdy(stream) = self {
            stream.finish().await;
        }
    }
}

/// The streams of an exec or attach.
pub struct Streams {
    /// Standard input.
    pub stdin: Option<Input>,
    /// Standard output; of a terminal all that it shows.
    pub stdout: Option<Output>,
    /// Standard error.
    pub stderr: Option<Output>,
    /// The terminal's sizes.
    pub resize: Option<Input>,
    /// How it ended.
    pub error: Output,
}

/// The streams that a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal, with its sizes.
    pub tty: bool,
}
