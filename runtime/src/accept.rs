//! Connections are accepted; what keeps one from that is waited out.

use std::io;
use std::time::Duration;

/// Before it is tried again. At once, it would take a CPU for as long as there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts the connections of one listener.
pub struct Accepting {
    what: &'static str,
    /// What fails again and again is told once.
    failing: bool,
}

impl Accepting {
    /// `what` listens, for the log.
    pub fn new(what: &'static str) -> Self {
        Accepting { what, failing: false }
    }

    /// The next connection, as `accept` gives it.
    pub async fn next<T, F: Future<Output = io::Result<T>>>(&mut self, accept: impl Fn() -> F) -> T {
        loop {
            match accept().await {
                Ok(connection) => {
                    self.failing = false;
                    return connection;
                }
                Err(e) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!("{}: connections cannot be accepted now: {e}", self.what);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn failures_are_waited_out() {
        let (begun, tries) = (Instant::now(), Cell::new(0));
        let accept = || {
            tries.set(tries.get() + 1);
            let tried = tries.get();
            async move { if tried > 3 { Ok(tried) } else { Err(rustix::io::Errno::MFILE.into()) } }
        };
        let mut accepting = Accepting::new("a test");
        assert_eq!(accepting.next(accept).await, 4);
        assert!(begun.elapsed() >= PAUSE * 3 && !accepting.failing);
    }
}
