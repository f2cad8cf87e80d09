//! Threads that run devices' event loops.

use std::io;
use std::sync::Arc;

use event_manager::{EventManager, RemoteEndpoint, SubscriberId};
use husk_jail::seccomp::Filter;

use super::BoxedDevice;
use crate::fact;
use crate::jail::Starting;
use crate::power::{Exit, ExitCell};

/// How other threads reach a thread with an event loop, a worker, which ends with the process.
#[derive(Clone)]
pub struct WorkerHandle {
    endpoint: RemoteEndpoint<BoxedDevice>,
    /// The same for all handles on one thread, and no others.
    name: Arc<str>,
}

impl PartialEq for WorkerHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.name, &other.name)
    }
}

/// A worker is gone or out of descriptors.
#[derive(Debug, thiserror::Error)]
#[error("a device thread does not answer: {0:?}")]
pub struct WorkerError(event_manager::Error);

impl From<event_manager::Error> for WorkerError {
    fn from(error: event_manager::Error) -> Self {
        Self(error)
    }
}

impl WorkerHandle {
    /// Starts a thread, among those that are `starting`, to be held to the system calls of `filter`. Its end would leave
    /// devices dead, so it ends the VM through `exit`.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(name: &str, filter: &Filter, exit: ExitCell, starting: &mut Starting) -> io::Result<Self> {
        let mut manager = EventManager::<BoxedDevice>::new()
            .map_err(|error| io::Error::other(format!("event loop of {name}: {error}")))?;
        let label: Arc<str> = name.into();
        let handle = WorkerHandle { endpoint: manager.remote_endpoint(), name: Arc::clone(&label) };
        starting.add(name, filter, move || {
            let failed = loop {
                match manager.run() {
                    Ok(_) => {}
                    Err(event_manager::Error::Epoll(errno)) if errno.errno() == libc::EINTR => {}
                    Err(error) => break error,
                }
            };
            fact!("the event loop of {label} failed: {failed}");
            exit.set(Exit::Failed(format!("the event loop of {label} failed: {failed}")));
        })?;
        Ok(handle)
    }

    /// Hands an activated device to the loop.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn add(&self, device: BoxedDevice) -> Result<SubscriberId, WorkerError> {
        self.endpoint.call_blocking(move |loop_| Ok(loop_.add_subscriber(device)))
    }

    /// Hands several devices over at once, which takes as long as one does; their ids are in the same order.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn add_all(&self, devices: Vec<BoxedDevice>) -> Result<Vec<SubscriberId>, WorkerError> {
        self.endpoint.call_blocking(move |loop_| {
            Ok(devices.into_iter().map(|device| loop_.add_subscriber(device)).collect())
        })
    }

    /// Takes a device back. It is not at work when this returns.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn remove(&self, id: SubscriberId) -> Result<BoxedDevice, WorkerError> {
        self.endpoint.call_blocking(move |loop_| loop_.remove_subscriber(id).map_err(WorkerError))
    }

    /// Returns when the loop is between two events: what devices had in hand before is done.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn barrier(&self) -> Result<(), WorkerError> {
        self.endpoint.call_blocking(|_| Ok(()))
    }
}
