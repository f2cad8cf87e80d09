//! What can go wrong with a pod's network.

use std::io;
use std::path::PathBuf;

/// Errors of [`super::PodNetwork`].
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The caller's input cannot be used.
    #[error("{field} \"{value}\" is not allowed: {why}")]
    InvalidRequest {
        /// Which part of the request.
        field: &'static str,
        /// The part, shortened and escaped.
        value: String,
        /// The rule.
        why: &'static str,
    },
    /// The sandbox has a network already.
    #[error("sandbox {sandbox_id} has a network already; stop the sandbox first")]
    AlreadySetUp {
        /// The sandbox.
        sandbox_id: String,
    },
    /// The sandbox has no network.
    #[error("sandbox {sandbox_id} has no network")]
    NotSetUp {
        /// The sandbox.
        sandbox_id: String,
    },
    /// No configuration.
    #[error("no CNI configuration (*.conflist, *.conf, *.json) in {}; install a CNI network add-on", dir.display())]
    NoConfig {
        /// The directory.
        dir: PathBuf,
    },
    /// A configuration that cannot be used.
    #[error("CNI configuration {}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The configuration names a plugin that is not there.
    #[error("CNI plugin \"{plugin}\" is not in {dirs}; install it or mend network.bin_dirs")]
    PluginNotFound {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        dirs: String,
    },
    /// A plugin could not be run, or its input and output could not be moved.
    #[error("CNI plugin \"{plugin}\", {command}: {source}")]
    PluginRun {
        /// Its type.
        plugin: String,
        /// "ADD", "DEL", ...
        command: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A plugin said that it failed.
    #[error("CNI plugin \"{plugin}\", {command} failed with code {code}: {message}")]
    PluginFailed {
        /// Its type.
        plugin: String,
        /// "ADD", "DEL", ...
        command: &'static str,
        /// The CNI error code, or the exit status when there was no error object.
        code: u32,
        /// Message and details, shortened.
        message: String,
    },
    /// A plugin took too long, and was killed.
    #[error("CNI plugin \"{plugin}\", {command} did not end within {seconds} s and was killed")]
    PluginTimeout {
        /// Its type.
        plugin: String,
        /// "ADD", "DEL", ...
        command: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A plugin's answer is not a CNI result.
    #[error("CNI plugin \"{plugin}\" answered something unusable: {why}")]
    PluginOutput {
        /// Its type.
        plugin: String,
        /// What is wrong with it.
        why: String,
    },
    /// A record of the cache could not be read or written.
    #[error("network record {}: {source}", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A network namespace could not be made, entered or removed.
    #[error("network namespace {}: {step}: {source}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel refused a request about links, addresses, routes or traffic control.
    #[error("netlink, {what}: {why}")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        why: String,
    },
    /// A tap could not be made.
    #[error("tap {name}: {step}: {source}")]
    Tap {
        /// Its name.
        name: String,
        /// What was tried.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// CNI left the pod without an Ethernet interface that is up.
    #[error("CNI left no Ethernet interface that is up in {}", netns.display())]
    NoInterface {
        /// The namespace.
        netns: PathBuf,
    },
    /// More interfaces than a guest gets.
    #[error("CNI made {count} interfaces in {}, at most {} are supported", netns.display(), super::MAX_INTERFACES)]
    TooManyInterfaces {
        /// The namespace.
        netns: PathBuf,
        /// How many.
        count: usize,
    },
}
