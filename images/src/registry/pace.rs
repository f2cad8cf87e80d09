//! How slowly a body may come.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio::time::timeout;

use super::http::explain;

/// The patience with one body: no silence of a whole window, and no less than a rate over one. Only the time spent
/// waiting counts, not that in which no one asked for more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    window: Duration,
    /// Bytes per second.
    rate: u64,
    waited: Duration,
    /// Bytes since `waited` began.
    got: u64,
}

impl Pace {
    pub(super) fn new(window: Duration, rate: u64) -> Self {
        Self { window, rate, waited: Duration::ZERO, got: 0 }
    }

    /// The next bytes of `response`, or none at its end.
    pub(super) async fn next(&mut self, response: &mut Response) -> Result<Option<Bytes>, String> {
        let begun = Instant::now();
        let chunk = match timeout(self.window, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(explain(&error)),
            Err(_) => return Err(format!("no bytes for {:?}", self.window)),
        };
        self.count(begun.elapsed(), chunk.len() as u64)?;
        Ok(Some(chunk))
    }

    fn count(&mut self, waited: Duration, bytes: u64) -> Result<(), String> {
        self.waited += waited;
        self.got += bytes;
        if self.waited < self.window {
            return Ok(());
        }
        let (waited, got) = (std::mem::take(&mut self.waited), std::mem::take(&mut self.got));
        if (got as f64) < self.rate as f64 * waited.as_secs_f64() {
            return Err(format!("only {got} bytes in {waited:.1?}, which is under {} a second", self.rate));
        }
        Ok(())
    }
}

/// A body of at most `limit` bytes; none if it is longer. It has two windows' time in all.
pub(super) async fn read_body(
    response: &mut Response,
    limit: u64,
    window: Duration,
) -> Result<Option<Bytes>, String> {
    let reading = async {
        let mut pace = Pace::new(window, 0);
        let mut body = BytesMut::new();
        while let Some(chunk) = pace.next(response).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body.freeze()))
    };
    timeout(window * 2, reading).await.unwrap_or_else(|_| Err(format!("not whole after {:?}", window * 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_told_from_a_pause() {
        let mut pace = Pace::new(Duration::from_secs(10), 100);
        for _ in 0..9 {
            pace.count(Duration::from_secs(1), 1).unwrap();
        }
        assert!(pace.count(Duration::from_secs(1), 1).unwrap_err().contains("10 bytes"));
        // Slow, but enough in all.
        for _ in 0..100 {
            pace.count(Duration::from_secs(5), 500).unwrap();
        }
        // What comes at once after a wait counts for it.
        pace.count(Duration::from_secs(9), 0).unwrap();
        pace.count(Duration::from_secs(1), 1000).unwrap();
    }
}
