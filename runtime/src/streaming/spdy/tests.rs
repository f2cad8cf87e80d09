//! A client's side of connections, well-behaved and not.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::dictionary::DICTIONARY;
use super::frame::{self, Frame, FrameError, Reset};
use super::state::{CONNECTION_WINDOW, WINDOW};
use super::{Connection, Stream, connect};

const PATIENCE: Duration = Duration::from_secs(10);

/// How much the connection's window is made wider at the beginning.
const GREETING: u32 = (CONNECTION_WINDOW - WINDOW) as u32;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

struct Client {
    pipe: DuplexStream,
    zlib: Compress,
    server: JoinHandle<Result<(), FrameError>>,
}

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Data(u32, bool, Vec<u8>),
    Reply(u32),
    Reset(u32, u32),
    Other(Frame),
}

fn start(max_streams: usize) -> (Connection, Client) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (connection, driver) = connect(theirs, max_streams);
    let mut zlib = Compress::new(Compression::default(), true);
    zlib.set_dictionary(&DICTIONARY).unwrap();
    (connection, Client { pipe: ours, zlib, server: tokio::spawn(driver) })
}

impl Client {
    fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for part in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((part.len() as u32).to_be_bytes());
            plain.extend(part.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 4096);
        self.zlib.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        block
    }

    async fn raw(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.pipe.write_all(bytes)).await.unwrap().unwrap();
    }

    async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let block = self.block(headers);
        let mut out = BytesMut::new();
        out.put_u32(0x8003_0001);
        out.put_u32(10 + block.len() as u32);
        out.put_u32(id);
        out.put_slice(&[0; 6]);
        out.put_slice(&block);
        self.raw(&out).await;
    }

    async fn data(&mut self, id: u32, fin: bool, data: &[u8]) {
        let mut out = BytesMut::new();
        frame::data(&mut out, id, fin, data);
        self.raw(&out).await;
    }

    async fn window(&mut self, id: u32, delta: u32) {
        let mut out = BytesMut::new();
        frame::window_update(&mut out, id, delta);
        self.raw(&out).await;
    }

    /// The next frame but pings and the widening of the connection's window; `None` at the end.
    async fn next(&mut self) -> Option<Sent> {
        timeout(PATIENCE, async {
            loop {
                let mut head = [0; 8];
                self.pipe.read_exact(&mut head).await.ok()?;
                let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
                let mut body = vec![0; length];
                self.pipe.read_exact(&mut body).await.ok()?;
                let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
                let first = u32::from_be_bytes(head[..4].try_into().unwrap());
                return Some(match first {
                    0x8003_0002 => Sent::Reply(word(0)),
                    0x8003_0003 => Sent::Reset(word(0), word(4)),
                    id if id < 1 << 31 => Sent::Data(id, head[4] & 1 == 1, body),
                    _ => {
                        let whole = [&head[..], &body].concat();
                        match frame::read(&mut &whole[..]).await.unwrap()? {
                            Frame::Ping { id } if id % 2 == 0 => continue,
                            Frame::WindowUpdate { stream: 0, delta } if delta == GREETING => continue,
                            frame => Sent::Other(frame),
                        }
                    }
                });
            }
        })
        .await
        .unwrap()
    }

    /// The end that the server comes to.
    async fn end(self) -> Result<(), FrameError> {
        timeout(PATIENCE, self.server).await.unwrap().unwrap()
    }
}

async fn accept(connection: &Connection) -> Stream {
    timeout(PATIENCE, connection.accept()).await.unwrap().unwrap()
}

async fn read(stream: &Stream) -> Option<Bytes> {
    timeout(PATIENCE, stream.read()).await.unwrap()
}

#[test]
fn both_ways_and_both_ends() {
    block_on(async {
        let (connection, mut client) = start(4);
        client.open(1, &[("streamtype", "stdin"), ("port", "80")]).await;
        let stream = accept(&connection).await;
        assert_eq!((stream.id(), stream.header("streamtype")), (1, Some("stdin")));
        assert_eq!(client.next().await, Some(Sent::Reply(1)));
        client.data(1, false, b"abc").await;
        client.data(1, true, b"de").await;
        assert_eq!(read(&stream).await.unwrap(), "abc");
        assert_eq!(read(&stream).await.unwrap(), "de");
        assert_eq!(read(&stream).await, None);
        stream.write("xyz".into()).await.unwrap();
        stream.finish().await;
        assert!(stream.write("more".into()).await.is_err(), "after our end");
        assert_eq!(client.next().await, Some(Sent::Data(1, false, b"xyz".to_vec())));
        assert_eq!(client.next().await, Some(Sent::Data(1, true, Vec::new())));
        drop(stream);
        connection.finish().await;
        assert_eq!(client.next().await, None);
        client.pipe.shutdown().await.unwrap();
        client.end().await.unwrap();
        assert!(connection.accept().await.is_none());
    });
}

#[test]
fn a_ping_comes_back_and_unknown_frames_are_passed_over() {
    block_on(async {
        let (_connection, mut client) = start(4);
        client.raw(&[0x80, 3, 0, 99, 0, 0, 0, 3, 1, 2, 3]).await;
        client.raw(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]).await;
        assert_eq!(client.next().await, Some(Sent::Other(Frame::Ping { id: 7 })));
    });
}

#[test]
fn dropped_is_cancelled() {
    block_on(async {
        let (connection, mut client) = start(4);
        client.open(1, &[]).await;
        drop(accept(&connection).await);
        assert_eq!(client.next().await, Some(Sent::Reply(1)));
        assert_eq!(client.next().await, Some(Sent::Reset(1, Reset::Cancel as u32)));
        // What was on its way is thrown away.
        client.data(1, false, b"late").await;
        client.open(3, &[]).await;
        assert_eq!(client.next().await, Some(Sent::Reply(3)));
    });
}

#[test]
fn streams_beyond_the_limit_are_refused_and_places_come_back() {
    block_on(async {
        let (connection, mut client) = start(2);
        for id in 0..2000 {
            client.open(2 * id + 1, &[]).await;
            let answer = client.next().await.unwrap();
            match id {
                0 | 1 => assert_eq!(answer, Sent::Reply(2 * id + 1)),
                _ => assert_eq!(answer, Sent::Reset(2 * id + 1, Reset::RefusedStream as u32)),
            }
        }
        let first = accept(&connection).await;
        first.finish().await;
        drop(first);
        assert_eq!(client.next().await, Some(Sent::Data(1, true, Vec::new())));
        client.open(4001, &[]).await;
        assert_eq!(client.next().await, Some(Sent::Reply(4001)));
    });
}

/// A peer that says nothing of windows is sent to without one, and held back by its connection.
#[test]
fn a_peer_without_windows() {
    block_on(async {
        let (connection, mut client) = start(2);
        client.open(1, &[]).await;
        let stream = accept(&connection).await;
        assert_eq!(client.next().await, Some(Sent::Reply(1)));
        let big = Bytes::from(vec![7; 300 << 10]);
        let (sent, received) = tokio::join!(stream.write(big.clone()), async {
            let mut received = Vec::new();
            while received.len() < big.len() {
                match client.next().await.unwrap() {
                    Sent::Data(1, false, data) => received.extend(data),
                    other => panic!("{other:?}"),
                }
            }
            received
        });
        sent.unwrap();
        assert!(received == big);
        // One frame far beyond the window, which nobody reads: the rest must wait, and arrive whole.
        let mut out = BytesMut::new();
        frame::data(&mut out, 1, true, &vec![9; 1 << 20]);
        assert!(timeout(Duration::from_millis(200), client.pipe.write_all(&out)).await.is_err());
        drop(client);
        let mut count = 0;
        while let Some(data) = read(&stream).await {
            count += data.len();
        }
        assert!((64 << 10..512 << 10).contains(&count), "{count} bytes were taken in");
    });
}

#[test]
fn windows_are_told_and_kept() {
    block_on(async {
        let (connection, mut client) = start(2);
        // A peer that speaks of windows: 10 bytes to begin with.
        client.raw(&[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 10]).await;
        client.open(1, &[]).await;
        let stream = accept(&connection).await;
        assert_eq!(client.next().await, Some(Sent::Reply(1)));
        let writing = tokio::spawn(async move {
            stream.write(Bytes::from_static(b"0123456789abcdef")).await.unwrap();
            stream
        });
        assert_eq!(client.next().await, Some(Sent::Data(1, false, b"0123456789".to_vec())));
        assert!(timeout(Duration::from_millis(100), client.pipe.read_u8()).await.is_err());
        client.window(1, 4).await;
        assert_eq!(client.next().await, Some(Sent::Data(1, false, b"abcd".to_vec())));
        client.window(1, 100).await;
        assert_eq!(client.next().await, Some(Sent::Data(1, false, b"ef".to_vec())));
        let stream = writing.await.unwrap();
        // Room is given back once half a window has been taken.
        client.data(1, false, &[1; 40 << 10]).await;
        let mut count = 0;
        while count < 40 << 10 {
            count += read(&stream).await.unwrap().len();
        }
        let mut told = Vec::new();
        for _ in 0..2 {
            match client.next().await.unwrap() {
                Sent::Other(Frame::WindowUpdate { stream, delta }) => told.push((stream, delta >= 32 << 10)),
                other => panic!("{other:?}"),
            }
        }
        told.sort();
        assert_eq!(told, [(0, true), (1, true)]);
    });
}

#[test]
fn more_than_a_window_ends_stream_or_connection() {
    block_on(async {
        let (connection, mut client) = start(32);
        client.raw(&[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]).await;
        client.open(1, &[]).await;
        let stream = accept(&connection).await;
        assert_eq!(client.next().await, Some(Sent::Reply(1)));
        for _ in 0..4 {
            client.data(1, false, &[1; 16 << 10]).await;
        }
        client.data(1, false, b"one too many").await;
        assert_eq!(client.next().await, Some(Sent::Reset(1, Reset::FlowControl as u32)));
        assert!(stream.write("x".into()).await.is_err());
        // The whole connection's, with many streams.
        for id in 1..=16 {
            client.open(2 * id + 1, &[]).await;
            let mut out = BytesMut::new();
            frame::data(&mut out, 2 * id + 1, false, &[1; 60 << 10]);
            // The last of them may find nobody who reads it.
            let _ = timeout(PATIENCE, client.pipe.write_all(&out)).await.unwrap();
        }
        let error = client.end().await.unwrap_err().to_string();
        assert!(error.contains("the connection's window"), "{error}");
    });
}

#[test]
fn frames_out_of_order_end_stream_or_connection() {
    block_on(async {
        let (connection, mut client) = start(4);
        client.data(5, false, b"x").await;
        assert_eq!(client.next().await, Some(Sent::Reset(5, Reset::InvalidStream as u32)));
        client.open(1, &[]).await;
        let stream = accept(&connection).await;
        assert_eq!(client.next().await, Some(Sent::Reply(1)));
        client.data(1, true, b"").await;
        client.data(1, false, b"after the end").await;
        assert_eq!(client.next().await, Some(Sent::Reset(1, Reset::AlreadyClosed as u32)));
        assert!(stream.write("x".into()).await.is_err());
        for bad in [1, 2, 0] {
            let (_connection, mut client) = start(4);
            client.open(1, &[]).await;
            assert_eq!(client.next().await, Some(Sent::Reply(1)));
            client.open(bad, &[]).await;
            assert_eq!(client.next().await, Some(Sent::Other(Frame::GoAway)), "{bad}");
            assert!(matches!(client.end().await, Err(FrameError::Protocol(_))));
        }
    });
}

#[test]
fn hostile_bytes_end_the_connection() {
    block_on(async {
        let too_long = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff].to_vec();
        let huge_window = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff].to_vec();
        let no_zlib = [&[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"junk"].concat();
        for bytes in [too_long, huge_window, no_zlib, b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
            let (connection, mut client) = start(4);
            client.raw(&bytes).await;
            client.pipe.shutdown().await.unwrap();
            assert!(client.end().await.is_err(), "{bytes:?}");
            assert!(connection.accept().await.is_none());
        }
    });
}

#[test]
fn a_header_bomb_ends_the_connection() {
    block_on(async {
        let (_connection, mut client) = start(4);
        let bomb = "y".repeat(8 << 20);
        client.open(1, &[("x", &bomb)]).await;
        let error = client.end().await.unwrap_err().to_string();
        assert!(error.contains("header block"), "{error}");
    });
}

/// Answers that nobody reads do not pile up for ever.
#[test]
fn a_flood_of_pings_ends_the_connection() {
    block_on(async {
        let (_connection, mut client) = start(4);
        let pings = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7].repeat(100_000);
        let (written, ended) = tokio::join!(client.pipe.write_all(&pings), timeout(PATIENCE, client.server));
        assert!(written.is_err());
        assert!(matches!(ended.unwrap().unwrap(), Err(FrameError::Protocol(_))));
    });
}

/// Every prefix of a whole conversation, and the whole with each byte changed: no panic, and an end.
#[test]
fn cut_and_changed_conversations_come_to_an_end() {
    block_on(async {
        let (_, mut client) = start(4);
        let block = client.block(&[("streamtype", "stdin")]);
        let mut whole = vec![0x80, 3, 0, 1, 0, 0, 0, 10 + block.len() as u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        whole.extend(&block);
        whole.extend([0, 0, 0, 1, 0, 0, 0, 2, b'h', b'i']);
        whole.extend([0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 9]);
        let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
        let changed = (0..whole.len()).flat_map(|at| {
            let whole = &whole;
            [0x01, 0x80, 0xff].map(|bits| {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                bytes
            })
        });
        for bytes in cut.chain(changed) {
            let (_connection, mut client) = start(4);
            client.raw(&bytes).await;
            client.pipe.shutdown().await.unwrap();
            let _ = client.end().await;
        }
    });
}
