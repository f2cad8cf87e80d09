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
    /// There is no device, or the guest's kernel has no driver or has not started it.
    #[error("the guest has no file system device (fs_tag), or no driver for it (CONFIG_VIRTIO_FS)")]
    NoDriver,
    /// One at a time.
    #[error("the file system device has a server already")]
    Attached,
    /// It is not what it should be.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The device's server, as soon as there is one.
pub struct Share {
    state: Mutex<State>,
    /// Written by the server, once for each queue, when it has answered; and here, when it has come.
    pub(super) calls: [EventFd; QUEUE_SIZES.len()],
}

#[derive(Default)]
struct State {
    driver: bool,
    server: Place,
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
        Ok(Arc::new(Self { state: Mutex::default(), calls: [call()?, call()?] }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has set up its queues.
    pub(super) fn driver_is_ready(&self) {
        self.state().driver = true;
    }

    /// The guest has reset the device: the server, which knows of requests that are forgotten now, ends with its
    /// connection.
    pub(super) fn driver_is_gone(&self) {
        let mut state = self.state();
        state.driver = false;
        if matches!(state.server, Place::Taken(_)) {
            state.server = Place::Free;
        }
    }

    /// Is there a server, or somebody who talks to one?
    pub(super) fn is_attached(&self) -> bool {
        !matches!(self.state().server, Place::Free)
    }

    /// Carries requests and answers between the guest's queues and the server, if there is one.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub(super) fn carry(&self, queues: &mut [VirtQueue]) -> Result<(), ShadowError> {
        match &mut self.state().server {
            Place::Taken(server) => server.carry(queues),
            _ => Ok(()),
        }
    }

    /// Makes who is at the other end of `connection` the server.
    ///
    /// # Errors
    /// [`ShareError`]; the device is without a server then, as before.
    pub fn attach(&self, connection: OwnedFd) -> Result<(), ShareError> {
        let mut state = self.state();
        if !matches!(state.server, Place::Free) {
            return Err(ShareError::Attached);
        }
        if !state.driver {
            return Err(ShareError::NoDriver);
        }
        // The device's thread must not wait for the conversation.
        state.server = Place::Reserved;
        drop(state);
        let server = Server::greet(connection, &self.calls);
        let mut state = self.state();
        match server {
            Ok(server) => state.server = Place::Taken(Box::new(server)),
            Err(error) => {
                state.server = Place::Free;
                return Err(error.into());
            }
        }
        drop(state);
        // What the driver has asked for already.
        self.calls.iter().for_each(|call| drop(call.write(1)));
        Ok(())
    }
}
