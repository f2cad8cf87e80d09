//! The agent's client: gRPC through the VMM's vsock socket.

mod output;
mod port;

pub use output::Output;
pub use port::{PortReceiver, PortSender, connect_port};

use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_proto::agent::agent_client::AgentClient;
use husk_proto::{AGENT_MAX_MESSAGE, AGENT_PORT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::{Error, Result};

/// A connection to one guest's agent. Cheap to clone; calls run side by side.
pub type Guest = AgentClient<Channel>;

/// How long an agent may take for a call that does not wait for a process.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one stream, and of a connection that is made for it, that wait on the host unread.
const STREAMING_WINDOW: u32 = 256 << 10;

/// Connects to the agent of the guest whose vsock is served on `socket`.
pub async fn connect(socket: &Path) -> Result<Guest> {
    connect_as(endpoint(), socket).await
}

/// A connection of its own for streams that a client may read slowly: what waits in them holds up no other call.
pub async fn connect_apart(socket: &Path) -> Result<Guest> {
    let endpoint = endpoint()
        .initial_stream_window_size(STREAMING_WINDOW)
        .initial_connection_window_size(STREAMING_WINDOW);
    connect_as(endpoint, socket).await
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://agent.husk").connect_timeout(Duration::from_secs(10))
}

async fn connect_as(endpoint: Endpoint, socket: &Path) -> Result<Guest> {
    let socket: PathBuf = socket.to_owned();
    let channel = endpoint
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { vsock_connect(&socket, AGENT_PORT).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|e| {
            let text = format!("cannot reach the guest's agent: {}", chain(&e));
            Error::of_host(&text, &e).unwrap_or(Error::Unavailable(text))
        })?;
    Ok(AgentClient::new(channel)
        .max_decoding_message_size(AGENT_MAX_MESSAGE)
        .max_encoding_message_size(AGENT_MAX_MESSAGE))
}

/// A request with the usual deadline.
pub fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Waits for the answer to such a request. The deadline holds for all of it: the library's own ends with the answer's
/// first bytes.
///
/// # Errors
/// What the agent says, or DEADLINE_EXCEEDED.
pub async fn call<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded(format!(
            "the guest's agent did not answer within {} s",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}

/// What an agent's refusal means to husk's caller. Its text comes from the guest: it is cut, and has nothing in it that
/// would begin a line of a log or command a terminal.
pub fn refusal(what: &str, status: tonic::Status) -> Error {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let text: String = status.message().chars().take(1024).map(plain).collect();
    let text = format!("{what}: {text}");
    match status.code() {
        tonic::Code::InvalidArgument => Error::Invalid(text),
        tonic::Code::NotFound | tonic::Code::FailedPrecondition | tonic::Code::AlreadyExists => {
            Error::State(text)
        }
        tonic::Code::ResourceExhausted => Error::Exhausted(text),
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Error::Deadline(text),
        tonic::Code::Unavailable => Error::Unavailable(text),
        tonic::Code::Unimplemented => Error::Unsupported(text),
        _ => Error::Internal(text),
    }
}

/// The VMM's `CONNECT port` handshake.
async fn vsock_connect(socket: &Path, port: u32) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        // The VMM's doing, and no want of the host's.
        std::io::ErrorKind::WouldBlock => std::io::Error::other("the VMM accepts no more connections"),
        _ => e,
    })?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // Byte by byte: what follows the line belongs to the agent's protocol.
    let mut line = Vec::with_capacity(32);
    while line.last() != Some(&b'\n') {
        if line.len() > 32 {
            return Err(std::io::Error::other("the VMM's answer to CONNECT is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    if !line.starts_with(b"OK ") {
        return Err(std::io::Error::other("the VMM refused CONNECT"));
    }
    Ok(stream)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_are_one_short_line() {
        let hostile = format!("no\n2026-01-01 ERROR \u{1b}[2J\u{9b}{}", "x".repeat(1 << 20));
        let told = refusal("the guest", tonic::Status::not_found(hostile));
        assert!(matches!(&told, Error::State(text) if text.starts_with("the guest: no 2026")), "{told}");
        let text = told.to_string();
        assert!(text.len() < 2048 && !text.contains(char::is_control), "{text:?}");
    }
}
