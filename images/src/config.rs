//! What an operator may set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::convert::Limits;

/// Where images come from, and what fetching one may cost.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// For a registry's host as it stands in references ("docker.io", "registry.example:5000"), or "*" for
    /// every other: URLs that are tried in order before the host itself. Only an `http://` URL is spoken to
    /// without TLS. Credentials for the host are never sent to a mirror.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// The program `husk-convert`.
    pub worker: PathBuf,
    /// The user and group that it runs as when started by root; nothing else should run as them.
    pub worker_id: u32,
    /// Budgets of one conversion.
    pub limits: Limits,
    /// Layers of one image fetched and converted at a time.
    pub parallel_layers: usize,
    /// How often a request is repeated after a failure that may pass.
    pub retries: u32,
    /// How long a registry or the worker may make no progress at all.
    pub stall: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            worker: beside_this_program("husk-convert"),
            worker_id: 64_997,
            limits: Limits::default(),
            parallel_layers: 3,
            retries: 4,
            stall: Duration::from_secs(30),
        }
    }
}

/// `name` in the directory of the running program, or by itself where that is not known.
fn beside_this_program(name: &str) -> PathBuf {
    let here = std::env::current_exe().ok();
    here.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
}

/// A user's name and password, or token, at one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The secret.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the secret, so that no log can hold it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}
