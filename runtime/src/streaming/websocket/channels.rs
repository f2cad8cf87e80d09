//! Numbered channels in one WebSocket (`v4.channel.k8s.io`, `v5.channel.k8s.io`): each binary message begins with
//! its channel's number. In v5 the client may close a channel: by a message to channel 255, whose second byte
//! names the channel. It is said in that direction alone: clients complain of a channel 255 from the server.

use std::collections::HashMap;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::SplitStream;
use futures_util::{Sink, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::PING_PERIOD;
use crate::streaming::spdy::Gone;

/// The channel that closes others.
const CLOSE: u8 = 255;

/// Messages that wait, in each channel from the client and in all to it together.
const QUEUE: usize = 4;

/// The most bytes of data in a message that is sent.
const MAX_SENT: usize = 32 << 10;

/// The client's bytes of one channel.
pub struct Receiver(mpsc::Receiver<Bytes>);

impl Receiver {
    /// What comes next; `None` when the channel is closed.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// Bytes for the client on one channel.
pub struct Sender {
    number: u8,
    messages: mpsc::Sender<Outgoing>,
}

enum Outgoing {
    Message(Message),
    End,
}

impl Sender {
    /// Sends all of it, as fast as the client takes it.
    pub async fn write(&self, mut data: Bytes) -> Result<(), Gone> {
        loop {
            let part = data.split_to(data.len().min(MAX_SENT));
            self.message(self.number, &part).await?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }

    async fn message(&self, channel: u8, data: &[u8]) -> Result<(), Gone> {
        let mut message = BytesMut::with_capacity(1 + data.len());
        message.put_u8(channel);
        message.put_slice(data);
        let message = Outgoing::Message(Message::Binary(message.freeze()));
        self.messages.send(message).await.map_err(|_| Gone)
    }
}

/// The channels of one WebSocket.
pub struct Channels {
    inputs: HashMap<u8, mpsc::Sender<Bytes>>,
    messages: mpsc::Sender<Outgoing>,
    outgoing: mpsc::Receiver<Outgoing>,
    /// The CLOSE channel of v5 is understood.
    closable: bool,
}

/// Ends a WebSocket.
pub struct Finish(mpsc::Sender<Outgoing>);

impl Finish {
    /// After what was written. The driver ends when the client has closed its side.
    pub async fn finish(self) {
        let _ = self.0.send(Outgoing::End).await;
    }
}

impl Channels {
    /// None yet. `closable`: the client knows the CLOSE channel.
    pub fn new(closable: bool) -> Self {
        let (messages, outgoing) = mpsc::channel(QUEUE);
        Channels { inputs: HashMap::new(), messages, outgoing, closable }
    }

    /// A channel from the client.
    pub fn input(&mut self, number: u8) -> Receiver {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.inputs.insert(number, sender);
        Receiver(receiver)
    }

    /// A channel to the client.
    pub fn output(&self, number: u8) -> Sender {
        Sender { number, messages: self.messages.clone() }
    }

    /// What ends the WebSocket.
    pub fn end(&self) -> Finish {
        Finish(self.messages.clone())
    }

    /// Moves the messages, until the client has gone.
    pub async fn drive<S>(self, socket: WebSocketStream<S>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Channels { inputs, messages, outgoing, closable } = self;
        drop(messages);
        let (sink, source) = socket.split();
        let receiving = receive(source, inputs, closable);
        let sending = send(sink, outgoing);
        tokio::pin!(receiving, sending);
        tokio::select! {
            received = &mut receiving => received,
            sent = &mut sending => match sent {
                Ok(()) => receiving.await,
                Err(e) => Err(e),
            },
        }
    }
}

async fn receive<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    mut inputs: HashMap<u8, mpsc::Sender<Bytes>>,
    closable: bool,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = source.next().await {
        let mut data = match message.map_err(io::Error::other)? {
            Message::Binary(data) => data,
            Message::Text(_) => return Err(io::Error::other("a text message; channels are binary")),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if data.is_empty() {
            return Err(io::Error::other("a message without a channel"));
        }
        let channel = data.split_to(1);
        match (channel.first(), data.first()) {
            (Some(&CLOSE), Some(closed)) if closable => drop(inputs.remove(closed)),
            (Some(number), Some(_)) => {
                if let Some(input) = inputs.get(number)
                    // Whoever read it has had enough: the rest is thrown away.
                    && input.send(data).await.is_err()
                {
                    inputs.remove(number);
                }
            }
            // An empty message says only that the client is there.
            _ => {}
        }
    }
    Ok(())
}

async fn send(
    mut sink: impl Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let mut pings = tokio::time::interval(PING_PERIOD);
    loop {
        let message = tokio::select! {
            next = outgoing.recv() => match next {
                Some(Outgoing::Message(message)) => message,
                Some(Outgoing::End) | None => break,
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await.map_err(io::Error::other)?;
    }
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    sink.send(Message::Close(Some(farewell))).await.map_err(io::Error::other)
}
