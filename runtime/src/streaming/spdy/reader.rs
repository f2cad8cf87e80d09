//! Takes a connection's frames in.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::connection::Shared;
use super::frame::{self, Frame, FrameError};
use super::headers::Inflater;
use super::state::{Arrival, Control};

/// The most bytes of data that are handed on as one.
const PIECE: usize = 16 << 10;

/// Reads until the peer has closed its side. An error of the protocol is left for the writer to tell.
pub async fn read_all(shared: &Shared, source: impl AsyncRead + Unpin) -> Result<(), FrameError> {
    let mut source = BufReader::new(source);
    let mut inflater = Inflater::default();
    let result = loop {
        match read_one(shared, &mut source, &mut inflater).await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    if matches!(result, Err(FrameError::Protocol(_))) {
        let mut state = shared.state();
        state.go_away = true;
        state.finishing = true;
    }
    result
}

fn protocol(text: String) -> FrameError {
    FrameError::Protocol(text)
}

/// One frame; whether more may follow.
async fn read_one(
    shared: &Shared,
    source: &mut (impl AsyncRead + Unpin),
    inflater: &mut Inflater,
) -> Result<bool, FrameError> {
    let Some(frame) = frame::read(source).await? else { return Ok(false) };
    match frame {
        Frame::Data { stream, fin, length } => data(shared, source, stream, fin, length).await?,
        Frame::SynStream { stream, fin, block } => {
            let headers = inflater.headers(&block).map_err(protocol)?;
            shared.state().open(stream, fin, headers).map_err(protocol)?;
            shared.accept.notify_waiters();
        }
        // We open none, so that it answers nothing; but its headers belong to the compression.
        Frame::SynReply { block } | Frame::Headers { block } => {
            inflater.headers(&block).map_err(protocol)?;
        }
        Frame::Reset { stream } => {
            shared.state().end(stream);
            shared.room.notify_one();
        }
        Frame::Settings { initial_window: Some(size) } => {
            shared.state().initial_window(size).map_err(protocol)?;
        }
        Frame::WindowUpdate { stream, delta } => shared.state().window(stream, delta).map_err(protocol)?,
        // The even ones are ours, on their way back (section 2.6.5).
        Frame::Ping { id } if id % 2 == 1 => shared.state().answer(Control::Pong(id)).map_err(protocol)?,
        Frame::Ping { .. } | Frame::Settings { .. } | Frame::GoAway | Frame::Unknown => {}
    }
    shared.control.notify_one();
    Ok(true)
}

/// Data goes on piece by piece, each when its stream has room: a frame may be longer than a window.
async fn data(
    shared: &Shared,
    source: &mut (impl AsyncRead + Unpin),
    stream: u32,
    fin: bool,
    length: usize,
) -> Result<(), FrameError> {
    let arrival = shared.state().announced(stream, length).map_err(protocol)?;
    let mut left = length;
    while left > 0 {
        if arrival == Arrival::Wanted {
            shared.control.notify_one();
            wait_for_room(shared, stream).await;
        }
        let mut piece = BytesMut::zeroed(left.min(PIECE));
        source.read_exact(&mut piece).await?;
        left -= piece.len();
        if arrival == Arrival::Wanted {
            let piece: Bytes = piece.freeze();
            shared.state().arrived(stream, piece).map_err(protocol)?;
        }
    }
    if fin {
        shared.state().finished(stream);
    }
    Ok(())
}

async fn wait_for_room(shared: &Shared, stream: u32) {
    while shared.state().is_full(stream) {
        shared.room.notified().await;
    }
}
