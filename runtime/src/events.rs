//! What becomes of pods and containers, for those who listen.
//!
//! A listener that reads more slowly than things happen is cut off with an error, after what was kept for it. Events
//! that are skipped would leave it with a wrong picture of the node; an error makes it list everything and listen
//! anew, which is what kubelet does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::store::{ContainerRecord, Phase, SandboxRecord};

/// The most events that are kept for one listener.
const MAX_EVENTS: usize = 1024;

/// The most bytes of records in them; one event may be larger by itself.
const MAX_BYTES: usize = 16 << 20;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is there.
    Created,
    /// A container's process runs, a pod is ready.
    Started,
    /// A container's process has ended, a pod has no VM any more.
    Stopped,
    /// It is not there any more.
    Deleted,
}

impl Kind {
    /// What a container's step from one phase to another is.
    pub fn of_step(before: Phase, after: Phase) -> Option<Kind> {
        match after {
            _ if after <= before => None,
            Phase::Created => Some(Kind::Created),
            Phase::Running => Some(Kind::Started),
            Phase::Stopped => Some(Kind::Stopped),
            Phase::Creating | Phase::Removing => None,
        }
    }
}

/// One event.
#[derive(Debug)]
pub struct Event {
    /// The container's id, or the pod's own.
    pub id: String,
    /// What happened to it.
    pub kind: Kind,
    /// When, nanoseconds since the Unix epoch.
    pub at: i64,
    /// The pod as it was then.
    pub sandbox: Option<SandboxRecord>,
    /// Its containers as they were then.
    pub containers: Vec<ContainerRecord>,
}

impl Event {
    fn bytes(&self) -> usize {
        let containers: usize = self.containers.iter().map(Message::encoded_len).sum();
        containers + self.sandbox.as_ref().map_or(0, Message::encoded_len)
    }
}

/// Carries events to the listeners.
#[derive(Debug, Default)]
pub struct Events(Mutex<Listeners>);

#[derive(Debug, Default)]
struct Listeners {
    all: Vec<Listener>,
    closed: bool,
}

#[derive(Debug)]
struct Listener {
    sender: mpsc::Sender<(Arc<Event>, usize)>,
    queue: Arc<Queue>,
}

/// What both ends know of what is kept for a listener.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    overflowed: AtomicBool,
}

impl Events {
    /// Everything that happens from now on.
    pub fn listen(&self) -> Listening {
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        let queue = Arc::new(Queue::default());
        let mut listeners = self.lock();
        listeners.all.retain(|listener| !listener.sender.is_closed());
        if !listeners.closed {
            listeners.all.push(Listener { sender, queue: queue.clone() });
        }
        Listening { receiver, queue }
    }

    /// Tells all listeners. `event` looks at the pod's records, which nobody who calls this may hold: it runs under
    /// one lock, so that of two events the later one never shows an earlier state.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        let mut listeners = self.lock();
        listeners.all.retain(|listener| !listener.sender.is_closed());
        if listeners.all.is_empty() {
            return;
        }
        let event = Arc::new(event());
        let bytes = event.bytes();
        listeners.all.retain(|listener| listener.take(&event, bytes));
    }

    /// Ends all listening, now and later: the daemon stops.
    pub fn close(&self) {
        let mut listeners = self.lock();
        listeners.closed = true;
        listeners.all.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Whether the event could be kept.
    fn take(&self, event: &Arc<Event>, bytes: usize) -> bool {
        let queued = self.queue.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = queued == 0 || queued.saturating_add(bytes) <= MAX_BYTES;
        if fits && self.sender.try_send((event.clone(), bytes)).is_ok() {
            return true;
        }
        self.queue.overflowed.store(true, Ordering::Release);
        false
    }
}

/// One listener's end.
#[derive(Debug)]
pub struct Listening {
    receiver: mpsc::Receiver<(Arc<Event>, usize)>,
    queue: Arc<Queue>,
}

impl Listening {
    /// The next event; None when the daemon stops.
    ///
    /// # Errors
    /// [`Error::Exhausted`] once, in place of the events that could not be kept; there are no more after it.
    pub async fn next(&mut self) -> Result<Option<Arc<Event>>> {
        match self.receiver.recv().await {
            Some((event, bytes)) => {
                self.queue.bytes.fetch_sub(bytes, Ordering::AcqRel);
                Ok(Some(event))
            }
            None if self.queue.overflowed.swap(false, Ordering::AcqRel) => Err(Error::Exhausted(format!(
                "events were read too slowly, and more than {MAX_EVENTS} or {MAX_BYTES} bytes of them are not kept; \
                 list pods and containers, and ask for events again"
            ))),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, message_bytes: usize) -> Event {
        let sandbox = SandboxRecord { message: "x".repeat(message_bytes), ..Default::default() };
        Event { id: id.into(), kind: Kind::Created, at: 1, sandbox: Some(sandbox), containers: Vec::new() }
    }

    #[test]
    fn a_containers_steps_are_events_but_those_back_and_aside_are_not() {
        use Phase::*;
        for (before, after, kind) in [
            (Creating, Creating, None),
            (Creating, Created, Some(Kind::Created)),
            (Created, Running, Some(Kind::Started)),
            (Running, Running, None),
            (Running, Stopped, Some(Kind::Stopped)),
            (Created, Stopped, Some(Kind::Stopped)),
            (Stopped, Stopped, None),
            (Stopped, Removing, None),
            (Removing, Stopped, None),
        ] {
            assert_eq!(Kind::of_step(before, after), kind, "{before:?} to {after:?}");
        }
    }

    #[tokio::test]
    async fn every_listener_is_told_from_when_it_listens() {
        let events = Events::default();
        events.tell(|| unreachable!("nobody listens"));
        let mut first = events.listen();
        events.tell(|| event("a", 0));
        let mut second = events.listen();
        events.tell(|| event("b", 0));
        drop(events.listen());
        assert_eq!(first.next().await.unwrap().unwrap().id, "a");
        assert_eq!(first.next().await.unwrap().unwrap().id, "b");
        assert_eq!(second.next().await.unwrap().unwrap().id, "b");
        events.close();
        assert!(first.next().await.unwrap().is_none());
        assert!(events.listen().next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_slow_listener_gets_what_was_kept_and_then_an_error() {
        for (bytes, kept) in [(0, MAX_EVENTS), (MAX_BYTES / 2 - 100, 2), (MAX_BYTES * 2, 1)] {
            let events = Events::default();
            let (mut slow, mut quick) = (events.listen(), events.listen());
            for _ in 0..MAX_EVENTS + 2 {
                events.tell(|| event("a", bytes));
                assert!(quick.next().await.unwrap().is_some());
                if bytes > 0 && slow.receiver.len() == kept && slow.queue.overflowed.load(Ordering::Acquire) {
                    break;
                }
            }
            for _ in 0..kept {
                assert!(slow.next().await.unwrap().is_some());
            }
            assert!(matches!(slow.next().await, Err(Error::Exhausted(_))), "{bytes}");
            assert!(slow.next().await.unwrap().is_none());
            events.tell(|| event("a", bytes));
            assert!(quick.next().await.unwrap().is_some());
        }
    }
}
