//! WebSockets as Kubernetes' clients use them: for numbered channels, or as a tunnel for SPDY.

pub mod channels;
#[cfg(test)]
mod tests;
pub mod tunnel;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// The most bytes of a message that is taken; Kubernetes' clients send 32 KiB at once.
const MAX_MESSAGE: usize = 1 << 20;

/// How often a ping is sent: a client that has vanished is seen by it even when its messages are not read, because
/// a channel is full.
const PING_PERIOD: Duration = Duration::from_secs(15);

/// The server's end of a WebSocket whose handshake is done.
pub async fn server<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
}
