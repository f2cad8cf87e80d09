//! A stream of bytes in the binary messages of a WebSocket.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Bytes that wait in each direction.
const BUFFER: usize = 64 << 10;

/// The most bytes of a message that is sent.
const MAX_SENT: usize = 32 << 10;

/// The stream, and a future that moves its bytes and must be polled.
pub fn tunnel<S>(socket: WebSocketStream<S>) -> (DuplexStream, impl Future<Output = io::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    (ours, carry(socket, theirs))
}

async fn carry<S>(socket: WebSocketStream<S>, inner: DuplexStream) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(inner);
    let inward = async {
        while let Some(message) = source.next().await {
            match message.map_err(io::Error::other)? {
                Message::Binary(data) => writer.write_all(&data).await?,
                Message::Text(_) => return Err(io::Error::other("a text message in a tunnel of bytes")),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        writer.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; MAX_SENT];
        loop {
            match reader.read(&mut buffer).await? {
                0 => break,
                count => {
                    let data = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                    sink.send(Message::Binary(data)).await.map_err(io::Error::other)?;
                }
            }
        }
        let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(farewell))).await.map_err(io::Error::other)
    };
    tokio::try_join!(inward, outward).map(drop)
}
