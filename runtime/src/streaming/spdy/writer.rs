//! Sends a connection's frames.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::connection::{Outgoing, Shared};
use super::frame::{self, FrameError};
use super::headers::Deflater;
use super::state::Control;

/// How often a ping is sent: a client that has vanished is seen by it even when its connection is not read from,
/// because a stream is full.
const PING_PERIOD: Duration = Duration::from_secs(15);

/// A connection on which no stream moves for so long is closed; kubelet's default.
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Writes until [`Outgoing::End`], and closes this side.
pub async fn write_all(
    shared: &Shared,
    mut sink: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Result<(), FrameError> {
    let mut deflater = Deflater::default();
    let mut pings = tokio::time::interval(PING_PERIOD);
    // Pings of a server are even (section 2.6.5).
    let mut ping = 0_u32;
    let mut out = BytesMut::new();
    let mut more = true;
    while more {
        tokio::select! {
            biased;
            () = shared.control.notified() => {}
            _ = pings.tick() => {
                if shared.state().moved.elapsed() > IDLE_LIMIT {
                    return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
                }
                // The first tick comes at once.
                if ping > 0 {
                    frame::ping(&mut out, ping);
                }
                ping = ping.wrapping_add(2);
            }
            next = outgoing.recv() => {
                // A stream is answered before anything is said on it.
                answers(shared, &mut deflater, &mut out)?;
                match next {
                    Some(Outgoing::Data { stream, fin, data }) => frame::data(&mut out, stream, fin, &data),
                    Some(Outgoing::End) | None => more = false,
                }
            }
        }
        answers(shared, &mut deflater, &mut out)?;
        if !more && shared.state().go_away {
            frame::go_away(&mut out, shared.state().last());
        }
        sink.write_all(&out).await?;
        sink.flush().await?;
        out.clear();
    }
    Ok(sink.shutdown().await?)
}

fn answers(shared: &Shared, deflater: &mut Deflater, out: &mut BytesMut) -> Result<(), FrameError> {
    let waiting = std::mem::take(&mut shared.state().control);
    for control in waiting {
        match control {
            Control::Reply(stream) => {
                let block = deflater.empty_block().map_err(FrameError::Protocol)?;
                frame::syn_reply(out, stream, &block);
            }
            Control::Reset(stream, status) => frame::reset(out, stream, status),
            Control::Pong(id) => frame::ping(out, id),
            Control::Window(stream, delta) => frame::window_update(out, stream, delta),
        }
    }
    Ok(())
}
