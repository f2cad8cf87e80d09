//! The place where the device and its server meet.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::QUEUE_SIZES;
use super::server::{Server, ServerError};
use super::shadow::ShadowError;
use crate::virtio::VirtQueue;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// One at a time.
    #[error("the file system device has a server already")]
    Attached,
    /// It is not what it should be.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The device's server, as soon as there is one.
pub struct Share {
    server: Mutex<Place>,
    /// Written by the server, once for each queue, when it has answered; and here, when it has come.
    pub(super) calls: [EventFd; QUEUE_SIZES.len()],
}

#[derive(Default)]
enum Place {
    #[default]
    Free,
    /// Somebody is talking to one.
    Reserved,
    Taken(Box<Server>),
}

impl Share {
    /// Without a server.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let call = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Arc::new(Self { server: Mutex::default(), calls: [call()?, call()?] }))
    }

    fn server(&self) -> MutexGuard<'_, Place> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has reset the device: the server, which knows of requests that are forgotten now, ends with its
    /// connection.
    pub(super) fn driver_is_gone(&self) {
        let mut server = self.server();
        if matches!(*server, Place::Taken(_)) {
            *server = Place::Free;
        }
    }

    /// Is there a server, or somebody who talks to one?
    pub(super) fn is_attached(&self) -> bool {
        !matches!(*self.server(), Place::Free)
    }

    /// Carries requests and answers between the guest's queues and the server, if there is one.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub(super) fn carry(&self, queues: &mut [VirtQueue]) -> Result<(), ShadowError> {
        match &mut *self.server() {
            Place::Taken(server) => server.carry(queues),
            _ => Ok(()),
        }
    }

    /// Makes who is at the other end of `connection` the server, whether or not the guest has a driver for the device by now:
    /// one that is bound late finds it.
    ///
    /// # Errors
    /// [`ShareError`]; the device is without a server then, as before.
    pub fn attach(&self, connection: OwnedFd) -> Result<(), ShareError> {
        let mut place = self.server();
        if !matches!(*place, Place::Free) {
            return Err(ShareError::Attached);
        }
        // The device's thread must not wait for the conversation.
        *place = Place::Reserved;
        drop(place);
        let server = Server::greet(connection, &self.calls);
        let mut place = self.server();
        match server {
            Ok(server) => *place = Place::Taken(Box::new(server)),
            Err(error) => {
                *place = Place::Free;
                return Err(error.into());
            }
        }
        drop(place);
        // What the driver has asked for already.
        self.calls.iter().for_each(|call| drop(call.write(1)));
        Ok(())
    }
}
