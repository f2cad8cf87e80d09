//! How long nothing has been sent over a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// A connection, and the watch over it.
pub fn watch<S>(inner: S) -> (Watched<S>, Idle) {
    let idle = Idle { begun: Instant::now(), last: Arc::default() };
    (Watched { inner, idle: idle.clone() }, idle)
}

/// Tells how long a [`Watched`] connection has been idle.
#[derive(Clone)]
pub struct Idle {
    begun: Instant,
    /// When bytes passed last, ms after `begun`.
    last: Arc<AtomicU64>,
}

impl Idle {
    fn note(&self) {
        self.last.store(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// When it will have been idle for so long; `None`: beyond what the clock can tell.
    fn end(&self, limit: Duration) -> Option<Instant> {
        let last = Duration::from_millis(self.last.load(Relaxed));
        self.begun.checked_add(last)?.checked_add(limit)
    }

    /// Returns when nothing has been sent either way for so long.
    pub async fn lasts(&self, limit: Duration) {
        loop {
            match self.end(limit) {
                Some(end) if end <= Instant::now() => return,
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        }
    }
}

/// A connection whose bytes are noticed.
pub struct Watched<S> {
    inner: S,
    idle: Idle,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.idle.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.idle.note();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn bytes_of_both_ways_put_the_end_off() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut near, idle) = watch(near);
        let mut before = idle.end(HOUR).unwrap();
        let mut later = async || {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let end = idle.end(HOUR).unwrap();
            std::mem::replace(&mut before, end) < end
        };
        assert!(!later().await);
        far.write_all(b"a").await.unwrap();
        assert!(!later().await, "it has not come yet");
        tokio::time::sleep(Duration::from_millis(5)).await;
        near.read_u8().await.unwrap();
        assert!(later().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
        near.write_all(b"b").await.unwrap();
        assert!(later().await);
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        assert!(!later().await, "the end is no byte");
    }

    #[tokio::test]
    async fn the_end_comes_and_without_a_limit_it_never_does() {
        let (_near, idle) = watch(tokio::io::duplex(64).0);
        idle.lasts(Duration::from_millis(20)).await;
        assert!(idle.end(Duration::MAX).is_none());
    }
}
