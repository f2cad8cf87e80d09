//! Who asked for an operation, and may go away before it is done.

use tokio::sync::watch;

use crate::error::{Error, Result};

/// The caller, as an operation sees it.
#[derive(Clone, Debug)]
pub struct Caller(Option<watch::Receiver<()>>);

/// Held by who waits for the operation: without it the caller has gone.
#[derive(Debug)]
pub struct Waiting(#[expect(dead_code, reason = "its end is what it tells")] watch::Sender<()>);

impl Caller {
    /// One who can go away.
    pub fn new() -> (Waiting, Caller) {
        let (sender, receiver) = watch::channel(());
        (Waiting(sender), Caller(Some(receiver)))
    }

    /// One who stays to the end.
    pub fn patient() -> Caller {
        Caller(None)
    }

    /// Returns when the caller has gone.
    pub async fn gone(&self) {
        match &self.0 {
            // Nothing is ever sent: what there is to see is the sender's end.
            Some(receiver) => while receiver.clone().changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }

    /// Refuses to go on for nobody.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn is_there(&self) -> Result<()> {
        match &self.0 {
            Some(receiver) if receiver.has_changed().is_err() => Err(Caller::cancelled()),
            _ => Ok(()),
        }
    }

    /// What becomes of an operation that nobody waits for.
    pub fn cancelled() -> Error {
        Error::Cancelled("the caller has gone away, and what was done for it is undone".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_wait_any_more_has_gone() {
        let (waiting, caller) = Caller::new();
        caller.is_there().unwrap();
        let seen = tokio::spawn({
            let caller = caller.clone();
            async move { caller.gone().await }
        });
        tokio::task::yield_now().await;
        assert!(!seen.is_finished());
        drop(waiting);
        seen.await.unwrap();
        assert!(matches!(caller.is_there(), Err(Error::Cancelled(_))));
        Caller::patient().is_there().unwrap();
    }
}
