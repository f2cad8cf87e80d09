//! `husk console`

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use super::POLL;
use super::daemon::Whom;
use super::find::{Named, find, find_known};
use super::ring::Ring;
use crate::cli::terminal::{Streams, written};
use crate::config::Config;
use crate::error::{Error, Result};

/// Arguments of `husk console`.
#[derive(Debug, clap::Args)]
pub struct Console {
    /// Its id or the beginning of it, for which no daemon has to run, or its NAME or NAMESPACE/NAME
    pod: String,
    /// Go on with what the guest says, until the pod's VM has ended
    #[arg(short, long)]
    follow: bool,
    /// Directory of sockets and consoles [default: run of the configuration]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    #[command(flatten)]
    whom: Whom,
}

impl Console {
    /// Prints what the kernel of a pod's guest has said, as far as it is kept.
    ///
    /// # Errors
    /// When there is no such pod or it has no VM any more, or a daemon is needed and does not answer.
    pub async fn execute(self, mut config: Config) -> Result<ExitCode> {
        if let Some(run) = self.run {
            config.run = run;
        }
        let id = match find(&self.pod, &with_directory(&config)?)? {
            Some(named) => named.id.clone(),
            None => named(&self.pod, self.whom, &config).await?,
        };
        let path = crate::vm::console_log(&config.pod_dir(&id));
        let fail = |e| Error::io("read", &path, e);
        let mut ring = Ring::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::Missing(format!(
                "pod {id} has no console ({} is not there): its VM has ended, and what it said last is in the pod's \
                 message, which `husk inspect` has",
                path.display()
            )),
            _ => Error::io("open", &path, e),
        })?;
        let streams = Streams::guarded();
        let mut silent = true;
        loop {
            let last = !self.follow || ring.is_removed().map_err(fail)?;
            loop {
                let piece = ring.read().map_err(fail)?;
                if piece.lost {
                    eprintln!("husk: here the guest said more than was read");
                }
                if piece.bytes.is_empty() {
                    break;
                }
                silent = false;
                if let Err(e) = streams.write(false, &piece.bytes) {
                    return written(Err(e));
                }
            }
            if last {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        if silent {
            eprintln!("husk: the console of pod {id} is empty: its guest has said nothing since it started");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The pods that have a directory, whether a daemon runs or not.
fn with_directory(config: &Config) -> Result<Vec<Named>> {
    let dir = config.pods_dir();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            let text = format!("{} is for root alone: run this as root", dir.display());
            return Err(Error::Unavailable(text));
        }
        Err(e) => return Err(Error::io("read", &dir, e)),
    };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(ids.map(|id| Named::id("pod", id)).collect())
}

/// The id of the pod that is called so, of which the daemon knows.
async fn named(wanted: &str, whom: Whom, config: &Config) -> Result<String> {
    let daemon = whom.connect(config).await.map_err(|e| {
        let dir = config.pods_dir();
        let dir = dir.display();
        Error::Unavailable(format!(
            "no pod in {dir} has an id that begins with {wanted:?}, and whether one is called so only the daemon knows: {e}"
        ))
    })?;
    Ok(find_known("pod", wanted, &daemon.names_of_pods().await?)?.id.clone())
}
