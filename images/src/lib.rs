//! Registry client, content store and image conversion.
//!
//! A layer is read once: registry, digest check, decompression, diff-id check, tar parser, and out come the
//! layer's file contents (`data`) and its metadata (`tree`). An image is the merge of its layers' trees as
//! EROFS metadata, whose files point into the layers' data; the disk that a guest mounts is the one behind
//! the other. No archive is ever unpacked into a directory of the host. The disk of a machine is an image as well,
//! kept as a sparse raw file.
#![forbid(unsafe_code)]

mod config;
pub mod convert;
mod credentials;
mod database;
mod digest;
pub mod disk;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod image;
mod layout;
mod manifest;
mod progress;
mod reference;
mod registry;
mod source;
mod store;
pub mod tree;
pub mod worker;

pub use config::RegistryConfig;
pub use credentials::{Credentials, registry_of};
pub use database::{Database, Done, OpenError};
pub use error::{ImageError, Result};
pub use progress::{Progress, STEP_SPANS, Silent, Step};
pub use store::{Damage, Disk, DiskExtent, Freed, Image, ImageStore, Usage, Verified};
