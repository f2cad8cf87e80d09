//! One stream of a connection.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::connection::{Outgoing, Shared};
use super::headers::Headers;
use super::state::Taken;

/// The most bytes sent in one frame.
const MAX_DATA: usize = 16 << 10;

/// A stream that the client opened. Dropped before both its halves are finished, it is cancelled.
pub struct Stream {
    id: u32,
    headers: Headers,
    shared: Arc<Shared>,
    wake: Arc<Notify>,
}

/// The client has gone, or wants no more of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client does not take any more")]
pub struct Gone;

impl Stream {
    pub(super) fn new(id: u32, headers: Headers, shared: Arc<Shared>, wake: Arc<Notify>) -> Stream {
        Stream { id, headers, shared, wake }
    }

    /// Its number, odd.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The value of a header whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// What comes next; `None` at the end of the client's half, or of the connection.
    pub async fn read(&self) -> Option<Bytes> {
        loop {
            let news = self.wake.notified();
            let (taken, answers) = self.shared.state().take(self.id);
            if answers {
                self.shared.control.notify_one();
            }
            match taken {
                Taken::Data(data) => {
                    self.shared.room.notify_one();
                    return Some(data);
                }
                Taken::End => return None,
                Taken::Nothing => news.await,
            }
        }
    }

    /// Sends all of it, as fast as the client takes it.
    pub async fn write(&self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let news = self.wake.notified();
            let room = self.shared.state().reserve(self.id, data.len().min(MAX_DATA)).ok_or(Gone)?;
            match room {
                0 => news.await,
                count => {
                    let data = data.split_to(count);
                    let frame = Outgoing::Data { stream: self.id, fin: false, data };
                    self.shared.data.send(frame).await.map_err(|_| Gone)?;
                }
            }
        }
        Ok(())
    }

    /// Ends our half.
    pub async fn finish(&self) {
        if self.shared.state().finish(self.id) {
            let frame = Outgoing::Data { stream: self.id, fin: true, data: Bytes::new() };
            let _ = self.shared.data.send(frame).await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.state().forget(self.id);
        self.shared.control.notify_one();
        self.shared.room.notify_one();
    }
}
