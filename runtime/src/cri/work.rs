//! How an operation goes on when the client that asked for it does not.

use tokio::sync::oneshot;
use tonic::Status;
use tracing::Instrument;

use crate::caller::Caller;
use crate::error::Result;

/// A task of its own, so that a client that goes away does not leave an operation half done.
pub async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result.map_err(Status::from),
        Err(e) => Err(failed(e)),
    }
}

/// The same of an operation that makes something, which goes when the client does: `undo` gets what was made when
/// nobody is there any more to be told of it.
///
/// What a client cannot take although its answer is on the way stays, as with every runtime; it is listed.
pub async fn for_caller<T, W, U>(
    work: impl FnOnce(Caller) -> W,
    undo: impl FnOnce(T) -> U + Send + 'static,
) -> Result<T, Status>
where
    T: Clone + Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
    U: Future<Output = Result<()>> + Send + 'static,
{
    let (_waiting, caller) = Caller::new();
    let (sender, receiver) = oneshot::channel();
    let work = work(caller);
    let done = async move {
        let result = work.await;
        let made = result.as_ref().ok().cloned();
        let (taken, was_taken) = oneshot::channel();
        // Who does not receive it drops `taken` with it.
        let _ = sender.send((result, taken));
        if let Some(made) = made
            && was_taken.await.is_err()
            && let Err(e) = undo(made).await
        {
            tracing::error!("the caller went away, and what was made for it cannot be undone: {e}");
        }
    };
    tokio::spawn(done.in_current_span());
    let (result, taken) = receiver.await.map_err(failed)?;
    let _: std::result::Result<(), ()> = taken.send(());
    result.map_err(Status::from)
}

fn failed(why: impl std::fmt::Display) -> Status {
    Status::internal(format!("the operation failed: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use tokio::sync::Notify;

    use super::*;
    use crate::error::Error;

    /// What is made is a name; what is undone is sent.
    fn undo_into(undone: oneshot::Sender<&'static str>) -> impl FnOnce(&'static str) -> Undo {
        |name| {
            Box::pin(async move {
                let _ = undone.send(name);
                Ok(())
            })
        }
    }

    type Undo = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    #[tokio::test]
    async fn what_a_client_is_told_of_stays() {
        let (undone, was_undone) = oneshot::channel();
        let made = for_caller(|_| async { Ok("made") }, undo_into(undone)).await;
        assert_eq!(made.unwrap(), "made");
        assert!(was_undone.await.is_err(), "it was undone");
    }

    #[tokio::test]
    async fn what_nobody_hears_of_is_undone() {
        let (undone, was_undone) = oneshot::channel();
        let go = Arc::new(Notify::new());
        let gone = go.clone();
        // It looks for its caller before the caller goes, and is done after.
        let work = |caller: Caller| async move {
            caller.is_there()?;
            gone.notified().await;
            Ok("made")
        };
        let mut answer = Box::pin(for_caller(work, undo_into(undone)));
        assert!(matches!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        tokio::task::yield_now().await;
        drop(answer);
        go.notify_one();
        assert_eq!(was_undone.await.unwrap(), "made");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_is_undone() {
        let (undone, was_undone) = oneshot::channel();
        let mut answer = Box::pin(for_caller(|_| async { Ok("made") }, undo_into(undone)));
        assert!(matches!(answer.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        // The work is done, and its answer is there to be taken.
        tokio::task::yield_now().await;
        drop(answer);
        assert_eq!(was_undone.await.unwrap(), "made");
    }

    #[tokio::test]
    async fn errors_and_panics_are_told() {
        let (undone, was_undone) = oneshot::channel();
        let refused = for_caller(|_| async { Err(Error::Invalid("no".into())) }, undo_into(undone)).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert!(was_undone.await.is_err());
        let (undone, _) = oneshot::channel();
        let failed = for_caller(|_| async { panic!("a fault of ours") }, undo_into(undone)).await;
        assert_eq!(failed.unwrap_err().code(), tonic::Code::Internal);
    }
}
