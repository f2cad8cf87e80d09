//! What users of the crate see, with real tools and real servers: Debian's `docker-registry`, `skopeo`,
//! `umoci`, `fsck.erofs` and GNU tar (all installed by `tests/deps/install`).

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod server;

mod archive_import;
mod combinations;
mod confinement;
mod crash;
mod credentials;
mod damage;
mod differential;
mod disks;
mod documents;
mod hostile;
mod hosts;
mod import;
mod memory;
mod mirrors;
mod misbehaviour;
mod pull;
mod store;
mod worker;
