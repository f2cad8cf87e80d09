//! A client's side of WebSockets, well-behaved and not.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::channels::{Channels, Receiver, Sender};
use super::{MAX_MESSAGE, server, tunnel};

const PATIENCE: Duration = Duration::from_secs(10);

type Client = WebSocketStream<DuplexStream>;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn pair() -> (Client, WebSocketStream<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    (WebSocketStream::from_raw_socket(ours, Role::Client, None).await, server(theirs).await)
}

/// A server with input 0 and output 1.
async fn start(closable: bool) -> (Client, Receiver, Sender, JoinHandle<io::Result<()>>) {
    let (client, socket) = pair().await;
    let mut channels = Channels::new(closable);
    let (input, output) = (channels.input(0), channels.output(1));
    (client, input, output, tokio::spawn(channels.drive(socket)))
}

fn binary(bytes: &[u8]) -> Message {
    Message::Binary(Bytes::copy_from_slice(bytes))
}

/// The next message but pings; `None` at the end.
async fn next(client: &mut Client) -> Option<Message> {
    loop {
        match timeout(PATIENCE, client.next()).await.unwrap()?.ok()? {
            Message::Ping(_) => {}
            message => return Some(message),
        }
    }
}

#[test]
fn channels_are_kept_apart() {
    block_on(async {
        let (mut client, mut input, output, _driver) = start(true).await;
        client.send(binary(b"\x00to you")).await.unwrap();
        client.send(binary(b"\x07to nobody")).await.unwrap();
        client.send(binary(b"\x00")).await.unwrap();
        client.send(binary(b"\x00again")).await.unwrap();
        assert_eq!(input.read().await.unwrap(), "to you");
        assert_eq!(input.read().await.unwrap(), "again");
        output.write("to the client".into()).await.unwrap();
        assert_eq!(next(&mut client).await, Some(binary(b"\x01to the client")));
        client.send(binary(b"\xff\x00")).await.unwrap();
        assert_eq!(input.read().await, None);
        drop(output);
        assert!(matches!(next(&mut client).await, Some(Message::Close(_))));
    });
}

#[test]
fn without_v5_channel_255_is_a_channel_like_any() {
    block_on(async {
        let (mut client, mut input, output, _driver) = start(false).await;
        client.send(binary(b"\xff\x00")).await.unwrap();
        client.send(binary(b"\x00still open")).await.unwrap();
        assert_eq!(input.read().await.unwrap(), "still open");
        output.write("x".into()).await.unwrap();
        assert_eq!(next(&mut client).await, Some(binary(b"\x01x")));
    });
}

#[test]
fn a_client_that_goes_ends_everything() {
    block_on(async {
        let (client, mut input, output, driver) = start(true).await;
        drop(client);
        assert_eq!(timeout(PATIENCE, input.read()).await.unwrap(), None);
        let _ = timeout(PATIENCE, driver).await.unwrap();
        assert!(output.write("x".into()).await.is_err());
    });
}

/// What nobody reads holds the client up, and takes no memory.
#[test]
fn a_full_channel_holds_its_client_up() {
    block_on(async {
        let (mut client, mut input, _output, _driver) = start(true).await;
        let message = [&[0][..], &[5; 32 << 10]].concat();
        let mut sent = 0;
        while timeout(Duration::from_millis(300), client.send(binary(&message))).await.is_ok() {
            sent += 1;
            assert!(sent < 20, "nobody reads, and the client is not held up");
        }
        for _ in 0..sent {
            assert_eq!(timeout(PATIENCE, input.read()).await.unwrap().unwrap().len(), 32 << 10);
        }
    });
}

#[test]
fn hostile_messages_end_the_connection() {
    block_on(async {
        for message in [Message::text("text"), binary(b""), binary(&vec![0; MAX_MESSAGE + 1])] {
            let (mut client, _input, _output, driver) = start(true).await;
            let (_, ended) = tokio::join!(client.send(message), timeout(PATIENCE, driver));
            assert!(ended.unwrap().unwrap().is_err());
        }
        let (mut raw, theirs) = tokio::io::duplex(16 << 10);
        let mut channels = Channels::new(true);
        let _input = channels.input(0);
        let driver = tokio::spawn(channels.drive(server(theirs).await));
        raw.write_all(b"no frames at all, and no mask").await.unwrap();
        assert!(timeout(PATIENCE, driver).await.unwrap().unwrap().is_err());
    });
}

#[test]
fn a_tunnel_carries_bytes_both_ways() {
    block_on(async {
        let (mut client, socket) = pair().await;
        let (mut inner, carrier) = tunnel::tunnel(socket);
        let carrier = tokio::spawn(carrier);
        client.send(binary(b"hel")).await.unwrap();
        client.send(binary(b"lo")).await.unwrap();
        let mut heard = [0; 5];
        timeout(PATIENCE, inner.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(&heard, b"hello");
        inner.write_all(b"back").await.unwrap();
        assert_eq!(next(&mut client).await, Some(binary(b"back")));
        client.send(Message::text("text")).await.unwrap();
        assert!(timeout(PATIENCE, carrier).await.unwrap().unwrap().is_err());
    });
}
