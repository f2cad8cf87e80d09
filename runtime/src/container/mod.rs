//! The life of a container: one file an operation.

mod attach;
mod create;
mod device;
mod disk;
mod exec;
mod exec_process;
mod exec_room;
mod followers;
mod log;
mod log_journal;
mod log_path;
mod logger;
mod media;
mod memory_volume;
mod mounts;
mod process;
mod remove;
pub mod resources;
mod seccomp;
mod spec;
mod start;
mod stop;
mod update;
mod volumes;

pub use attach::{Attachment, attach};
pub use disk::PARTITION;
pub use exec_process::{ExecOptions, ExecProcess, end_commands, lost};
pub use exec_room::ExecRoom;
pub use log::LogRecord;
pub use logger::Logger;
pub use process::ProcessInput;
pub use start::until_recorded;
