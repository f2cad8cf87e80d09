//! All that a VM needs by name. It is opened before the VMM gives up its root, and nothing is afterwards.

use std::io;
use std::os::unix::net::UnixListener;

use kvm_ioctls::Kvm;

use super::VmError;
use super::devices::DeviceError;
use super::kvm::KvmError;
use crate::boot::Image;
use crate::config::{VmConfig, VsockConfig};
use crate::console::RingFile;
use crate::devices::vsock;
use crate::snapshot::SnapshotFiles;
use crate::sys;

/// Open files and sockets.
pub struct Files {
    /// What it is that runs.
    pub guest: GuestFiles,
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// `console_log`.
    pub console: RingFile,
    /// `vsock.socket`.
    pub vsock: UnixListener,
    /// `control_socket`.
    pub control: UnixListener,
}

/// Where a guest comes from.
pub enum GuestFiles {
    /// It boots: `kernel` and `initramfs`.
    Boot(Image, Image),
    /// It goes on: `restore`.
    Restore(SnapshotFiles),
}

impl Files {
    /// Opens them, and makes those that are the VMM's to make.
    ///
    /// # Errors
    /// [`VmError`], which names the configuration's key.
    pub fn open(config: &VmConfig) -> Result<Self, VmError> {
        Ok(Self {
            guest: match &config.restore {
                Some(restore) => GuestFiles::Restore(SnapshotFiles::open(restore)?),
                None => GuestFiles::Boot(
                    Image::open("kernel", &config.kernel)?,
                    Image::open("initramfs", &config.initramfs)?,
                ),
            },
            kvm: Kvm::new().map_err(KvmError::Open)?,
            console: RingFile::create(&config.console_log, config.console_log_limit)
                .map_err(|source| VmError::Console { path: config.console_log.clone(), source })?,
            vsock: listener(&config.vsock)
                .map_err(|source| DeviceError::Socket { path: config.vsock.socket.clone(), source })?,
            control: super::control::listen(&config.control_socket)
                .map_err(|source| VmError::Control { path: config.control_socket.clone(), source })?,
        })
    }
}

fn listener(config: &VsockConfig) -> io::Result<UnixListener> {
    let Some(fd) = config.listener_fd else { return vsock::listen(&config.socket) };
    let listener = UnixListener::from(sys::inherit(fd)?);
    listener.set_nonblocking(true)?;
    Ok(listener)
}
