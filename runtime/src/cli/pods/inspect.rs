//! `husk inspect`

use std::process::ExitCode;

use serde_json::Value;

use super::daemon::{Daemon, Whom};
use super::find::{Named, find_known, unknown};
use super::told;
use crate::cli::terminal;
use crate::config::Config;
use crate::error::{Error, Result};

/// Arguments of `husk inspect`.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A pod or container: its id or the beginning of it, a pod's NAME or NAMESPACE/NAME, or a container's POD/NAME
    /// or NAMESPACE/POD/NAME
    #[arg(value_name = "POD|CONTAINER")]
    wanted: String,
    #[command(flatten)]
    whom: Whom,
}

impl Inspect {
    /// Prints all that the daemon knows of it as JSON.
    ///
    /// # Errors
    /// When it is not there, several are meant, or the daemon does not answer.
    pub async fn execute(self, config: Config) -> Result<ExitCode> {
        let daemon = self.whom.connect(&config).await?;
        let mut all = daemon.names_of_pods().await?;
        // A container is often called as its pod is, which is the one that is meant then.
        all.extend(daemon.names_of_containers().await?.into_iter().map(Named::without_plain_name));
        let found = find_known("pod or container", &self.wanted, &all)?;
        let told = told_of(&daemon, found).await?.ok_or_else(|| unknown(found.kind, &self.wanted))?;
        let text = serde_json::to_string_pretty(&told).map_err(|e| Error::Internal(e.to_string()))?;
        terminal::print(&format!("{text}\n"))
    }
}

async fn told_of(daemon: &Daemon, named: &Named) -> Result<Option<Value>> {
    Ok(match named.kind {
        "pod" => daemon.pod(&named.id).await?.as_ref().map(told::pod),
        _ => daemon.container(&named.id).await?.as_ref().map(told::container_alone),
    })
}
