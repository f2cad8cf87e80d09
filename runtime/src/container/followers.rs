//! Who watches a container's output beside its log. The log waits for nobody: whoever reads too slowly is let go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use husk_proto::agent::OutputStream;
use tokio::sync::{Semaphore, mpsc};

use crate::error::{Error, Result};
use crate::node::lock;

/// The most bytes of output that wait for one follower.
const MAX_WAITING: usize = 4 << 20;

/// A piece of output and its stream.
type Piece = (OutputStream, Bytes);

/// The followers of one container; `None` once its output has ended.
pub struct Followers(Mutex<Option<Vec<Sender>>>);

struct Sender {
    pieces: mpsc::UnboundedSender<Piece>,
    shared: Arc<Shared>,
}

struct Shared {
    /// One permit a byte: bounds what waits.
    room: Semaphore,
    too_slow: AtomicBool,
}

/// The output from a moment on.
pub struct Follower {
    pieces: mpsc::UnboundedReceiver<Piece>,
    shared: Arc<Shared>,
}

impl Default for Followers {
    fn default() -> Self {
        Followers(Mutex::new(Some(Vec::new())))
    }
}

impl Followers {
    /// One more, from now on.
    pub fn add(&self) -> Follower {
        let (sender, pieces) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { room: Semaphore::new(MAX_WAITING), too_slow: AtomicBool::new(false) });
        if let Some(senders) = &mut *lock(&self.0) {
            senders.push(Sender { pieces: sender, shared: shared.clone() });
        }
        Follower { pieces, shared }
    }

    /// Hands a piece to all; never waits.
    pub fn publish(&self, stream: OutputStream, data: &[u8]) {
        let mut senders = lock(&self.0);
        let Some(senders) = senders.as_mut().filter(|senders| !senders.is_empty()) else { return };
        let data = Bytes::copy_from_slice(data);
        senders.retain(|sender| sender.send(stream, &data));
    }

    /// The output has ended.
    pub fn end(&self) {
        lock(&self.0).take();
    }
}

impl Sender {
    fn send(&self, stream: OutputStream, data: &Bytes) -> bool {
        let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match self.shared.room.try_acquire_many(wanted) {
            Ok(room) => {
                room.forget();
                self.pieces.send((stream, data.clone())).is_ok()
            }
            Err(_) => {
                self.shared.too_slow.store(true, Ordering::Release);
                false
            }
        }
    }
}

impl Follower {
    /// What comes next; `None` at the end of the output.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        match self.pieces.recv().await {
            Some(piece) => {
                self.shared.room.add_permits(piece.1.len());
                Ok(Some(piece))
            }
            None if self.shared.too_slow.load(Ordering::Acquire) => Err(Error::Exhausted(format!(
                "the client fell {MAX_WAITING} bytes behind the container's output, and was let go; the log has all of it"
            ))),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn all_see_the_same_from_when_they_came() {
        block_on(async {
            let followers = Followers::default();
            followers.publish(OutputStream::Stdout, b"before");
            let mut first = followers.add();
            followers.publish(OutputStream::Stdout, b"a");
            let mut second = followers.add();
            followers.publish(OutputStream::Stderr, b"b");
            followers.end();
            let a = (OutputStream::Stdout, Bytes::from_static(b"a"));
            let b = (OutputStream::Stderr, Bytes::from_static(b"b"));
            assert_eq!(first.next().await.unwrap(), Some(a));
            for follower in [&mut first, &mut second] {
                assert_eq!(follower.next().await.unwrap(), Some(b.clone()));
                assert_eq!(follower.next().await.unwrap(), None);
            }
            assert_eq!(followers.add().next().await.unwrap(), None, "after the end there is nothing");
        });
    }

    #[test]
    fn who_is_too_slow_is_let_go_and_told() {
        block_on(async {
            let followers = Followers::default();
            let (mut slow, mut fast) = (followers.add(), followers.add());
            let piece = vec![0; 64 << 10];
            for _ in 0..=MAX_WAITING / piece.len() {
                followers.publish(OutputStream::Stdout, &piece);
                assert_eq!(fast.next().await.unwrap().unwrap().1.len(), piece.len());
            }
            let mut seen = 0;
            let error = loop {
                match slow.next().await {
                    Ok(Some((_, data))) => seen += data.len(),
                    Ok(None) => panic!("the loss was not told"),
                    Err(e) => break e,
                }
            };
            assert_eq!(seen, MAX_WAITING);
            assert!(matches!(error, Error::Exhausted(_)));
        });
    }
}
