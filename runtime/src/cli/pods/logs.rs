//! `husk logs`

use std::path::Path;
use std::process::ExitCode;

use husk_proto::cri;

use super::POLL;
use super::daemon::{Daemon, Whom};
use super::find::{find_known, unknown};
use crate::cli::log_file::LogFile;
use crate::cli::terminal::{Streams, written};
use crate::config::Config;
use crate::error::{Error, Result};

/// Arguments of `husk logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Its id or the beginning of it, or its NAME, POD/NAME or NAMESPACE/POD/NAME. Of several attempts at a container
    /// the youngest is meant
    container: String,
    /// Go on with what it writes, until it has ended
    #[arg(short, long)]
    follow: bool,
    /// Just the last N lines of what it has written so far
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    #[command(flatten)]
    whom: Whom,
}

impl Logs {
    /// Prints what a container has written, each stream to its own.
    ///
    /// # Errors
    /// When there is no such container or it has no log, or the daemon does not answer.
    pub async fn execute(self, config: Config) -> Result<ExitCode> {
        let daemon = self.whom.connect(&config).await?;
        let all = daemon.names_of_containers().await?;
        let id = &find_known("container", &self.container, &all)?.id;
        let status = daemon.container(id).await?.and_then(|answer| answer.status);
        let path = status.ok_or_else(|| unknown("container", &self.container))?.log_path;
        if path.is_empty() {
            return Err(Error::State(format!(
                "container {id} keeps no log: it was made without a log_path, or its pod without a log_directory"
            )));
        }
        let mut log = LogFile::new(Path::new(&path));
        if !self.follow && !log.exists()? {
            return Err(Error::Missing(format!(
                "the log {path} is not there: container {id} was not started, or its log has been removed"
            )));
        }
        if let Some(lines) = self.tail {
            log.skip_to_last(lines)?;
        }
        let mut followed = Followed { daemon, id: id.clone(), told: false };
        let streams = Streams::guarded();
        loop {
            // Asked first: a container that has ended has written all it had to.
            let last = !self.follow || followed.has_ended().await?;
            loop {
                let lines = log.read()?;
                if lines.is_empty() {
                    break;
                }
                if let Err(e) = streams.write_log(&lines) {
                    return written(Err(e));
                }
            }
            if last {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A container whose end is waited for, which a daemon outlives or not.
struct Followed {
    daemon: Daemon,
    id: String,
    /// Whether it was said that the daemon is away.
    told: bool,
}

impl Followed {
    async fn has_ended(&mut self) -> Result<bool> {
        match self.daemon.container(&self.id).await {
            Ok(answer) => {
                self.told = false;
                let state = answer.and_then(|answer| answer.status).map(|status| status.state());
                Ok(state.is_none_or(|state| state == cri::ContainerState::ContainerExited))
            }
            // The container goes on without it, and its log with the next one.
            Err(e @ Error::Unavailable(_)) => {
                if !std::mem::replace(&mut self.told, true) {
                    eprintln!("husk: {e}; waiting for it");
                }
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}
