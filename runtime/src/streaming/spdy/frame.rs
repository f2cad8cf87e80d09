//! SPDY/3.1 frames (draft, section 2.2 and 2.6) as bytes: what a client may send, and what a server answers.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most bytes of a control frame that are taken, beside its 8 bytes of header.
pub const MAX_CONTROL: usize = 16 << 10;

const VERSION: u16 = 3;
const CONTROL_BIT: u32 = 1 << 31;
const FLAG_FIN: u8 = 1;
/// Entry of SETTINGS with a stream's initial window (section 2.6.4).
const SETTINGS_INITIAL_WINDOW: u32 = 7;

/// Why a stream is ended (section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// A frame for a stream that is not open.
    InvalidStream = 2,
    /// Too many streams.
    RefusedStream = 3,
    /// The stream is no longer needed.
    Cancel = 5,
    /// More than the window allows.
    FlowControl = 7,
    /// Data after the end.
    AlreadyClosed = 9,
}

/// What comes in. Header blocks are still compressed, and data of any length is left in the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// `length` bytes of data follow.
    Data { stream: u32, fin: bool, length: usize },
    /// A new stream.
    SynStream { stream: u32, fin: bool, block: Bytes },
    /// The answer to a new stream of ours.
    SynReply { block: Bytes },
    /// The end of a stream.
    Reset { stream: u32 },
    /// The initial window of streams, where it is given.
    Settings { initial_window: Option<u32> },
    /// To be sent back.
    Ping { id: u32 },
    /// No more streams.
    GoAway,
    /// More headers.
    Headers { block: Bytes },
    /// The peer takes so many bytes more; stream 0 is the whole connection.
    WindowUpdate { stream: u32, delta: u32 },
    /// A type that SPDY/3.1 does not know, to be ignored (section 2.2.1).
    Unknown,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is broken or at an end.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer does not keep to the protocol.
    #[error("SPDY: {0}")]
    Protocol(String),
}

fn wrong<T>(text: impl Into<String>) -> Result<T, FrameError> {
    Err(FrameError::Protocol(text.into()))
}

/// Reads the next frame; `None` at an end between frames.
pub async fn read(source: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut header = [0; 8];
    match source.read(&mut header).await? {
        0 => return Ok(None),
        count => source.read_exact(&mut header[count..]).await?,
    };
    let [a, b, c, d, flags, e, f, g] = header;
    let first = u32::from_be_bytes([a, b, c, d]);
    let length = u32::from_be_bytes([0, e, f, g]) as usize;
    if first & CONTROL_BIT == 0 {
        if first == 0 {
            return wrong("data for stream 0");
        }
        return Ok(Some(Frame::Data { stream: first, fin: flags & FLAG_FIN != 0, length }));
    }
    let version = (first >> 16) as u16 & !(1 << 15);
    if version != VERSION {
        return wrong(format!("a frame of version {version}, not {VERSION}"));
    }
    if length > MAX_CONTROL {
        return wrong(format!("a control frame of {length} bytes; the most is {MAX_CONTROL}"));
    }
    let mut payload = vec![0; length];
    source.read_exact(&mut payload).await?;
    control(first as u16, flags, payload.into()).map(Some)
}

fn control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
    let length = payload.len();
    let mut word = || -> Result<u32, FrameError> {
        if payload.len() < 4 {
            return wrong(format!("a control frame of type {kind} with only {length} bytes"));
        }
        let word = payload.split_to(4);
        Ok(word.iter().fold(0, |value, byte| (value << 8) | u32::from(*byte)))
    };
    Ok(match kind {
        1 => {
            let stream = word()? & !CONTROL_BIT;
            // The stream it belongs to.
            word()?;
            if payload.len() < 2 {
                return wrong("a SYN_STREAM without a priority");
            }
            Frame::SynStream { stream, fin: flags & FLAG_FIN != 0, block: payload.slice(2..) }
        }
        2 => {
            word()?;
            Frame::SynReply { block: payload }
        }
        3 => Frame::Reset { stream: word()? & !CONTROL_BIT },
        4 => {
            let count = word()?;
            let mut initial_window = None;
            for _ in 0..count {
                let (id, value) = (word()? & 0x00ff_ffff, word()?);
                if id == SETTINGS_INITIAL_WINDOW {
                    initial_window = Some(value);
                }
            }
            Frame::Settings { initial_window }
        }
        6 => Frame::Ping { id: word()? },
        7 => Frame::GoAway,
        8 => {
            word()?;
            Frame::Headers { block: payload }
        }
        9 => {
            let (stream, delta) = (word()? & !CONTROL_BIT, word()? & !CONTROL_BIT);
            if delta == 0 {
                return wrong(format!("a window update of 0 for stream {stream}"));
            }
            Frame::WindowUpdate { stream, delta }
        }
        _ => Frame::Unknown,
    })
}

fn head(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16((1 << 15) | VERSION);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

/// DATA; at most 2^24 - 1 bytes.
pub fn data(out: &mut BytesMut, stream: u32, fin: bool, data: &[u8]) {
    out.put_u32(stream);
    out.put_u32((u32::from(fin) << 24) | data.len() as u32);
    out.put_slice(data);
}

/// SYN_REPLY with a compressed header block.
pub fn syn_reply(out: &mut BytesMut, stream: u32, block: &[u8]) {
    head(out, 2, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(block);
}

/// RST_STREAM.
pub fn reset(out: &mut BytesMut, stream: u32, status: Reset) {
    head(out, 3, 8);
    out.put_u32(stream);
    out.put_u32(status as u32);
}

/// PING.
pub fn ping(out: &mut BytesMut, id: u32) {
    head(out, 6, 4);
    out.put_u32(id);
}

/// GOAWAY, for a protocol error.
pub fn go_away(out: &mut BytesMut, last_stream: u32) {
    head(out, 7, 8);
    out.put_u32(last_stream);
    out.put_u32(1);
}

/// WINDOW_UPDATE.
pub fn window_update(out: &mut BytesMut, stream: u32, delta: u32) {
    head(out, 9, 8);
    out.put_u32(stream);
    out.put_u32(delta);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mut bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut bytes))
    }

    fn refused(bytes: &[u8], word: &str) {
        let error = parse(bytes).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn frames_of_the_specification() {
        let syn = [0x80, 3, 0, 1, 1, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0xe0, 0, b'x', b'y'];
        let block = Bytes::from_static(b"xy");
        assert_eq!(parse(&syn).unwrap(), Some(Frame::SynStream { stream: 5, fin: true, block }));
        let data = [0, 0, 0, 5, 1, 0, 1, 2];
        assert_eq!(parse(&data).unwrap(), Some(Frame::Data { stream: 5, fin: true, length: 258 }));
        let settings = [0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 1, 0, 0, 7, 0, 1, 0, 0];
        assert_eq!(parse(&settings).unwrap(), Some(Frame::Settings { initial_window: Some(65536) }));
        let window = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 9];
        assert_eq!(parse(&window).unwrap(), Some(Frame::WindowUpdate { stream: 5, delta: 9 }));
        assert_eq!(parse(&[0x80, 3, 0, 99, 0, 0, 0, 1, 7]).unwrap(), Some(Frame::Unknown));
        assert_eq!(parse(&[]).unwrap(), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = BytesMut::new();
        ping(&mut out, 7);
        assert_eq!(parse(&out).unwrap(), Some(Frame::Ping { id: 7 }));
        out.clear();
        reset(&mut out, 9, Reset::Cancel);
        assert_eq!(parse(&out).unwrap(), Some(Frame::Reset { stream: 9 }));
        out.clear();
        window_update(&mut out, 3, 17);
        assert_eq!(parse(&out).unwrap(), Some(Frame::WindowUpdate { stream: 3, delta: 17 }));
        out.clear();
        data(&mut out, 3, true, b"abc");
        assert_eq!(out, [0, 0, 0, 3, 1, 0, 0, 3, b'a', b'b', b'c'][..]);
    }

    #[test]
    fn hostile_frames_are_refused() {
        refused(&[0, 0, 0, 0, 0, 0, 0, 0], "stream 0");
        refused(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], "version 2");
        refused(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], "16777215 bytes");
        refused(&[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 0], "only 3 bytes");
        refused(&[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], "only 4 bytes");
        refused(&[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0], "update of 0");
        refused(&[0x80, 3, 0, 1, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0], "priority");
    }

    #[test]
    fn cut_anywhere_it_is_an_error_and_no_panic() {
        let syn = [0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, b'x', b'y'];
        for end in 1..syn.len() {
            assert!(parse(&syn[..end]).is_err(), "{end}");
        }
    }
}
