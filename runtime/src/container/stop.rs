//! StopContainer.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent;
use nix::sys::signal::Signal;

use super::process::process;
use crate::error::{Error, Result};
use crate::guest;
use crate::node::{Container, Node};
use crate::store::Phase;

/// How long a container may take to end after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(30);

impl Node {
    /// Stops a container: its stop signal, and after `timeout` seconds SIGKILL. Neither an unknown id nor a
    /// container that has exited is an error (CRI: idempotent).
    pub async fn stop_container(self: &Arc<Self>, id: &str, timeout: i64) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        // Only until it is clear what there is to stop: a later, less patient call must not have to wait.
        let changing = container.changing.lock().await;
        let record = container.record();
        match record.phase() {
            Phase::Running => drop(changing),
            Phase::Created => {
                return self.record_exit(&container, 0, "Completed", "stopped before it was started");
            }
            _ => return Ok(()),
        }
        if timeout > 0 {
            let patience = Duration::from_secs(timeout as u64);
            self.signal(&container, record.stop_signal, false).await?;
            if tokio::time::timeout(patience, container.exited()).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(&container, Signal::SIGKILL as u32, true).await?;
        tokio::time::timeout(AFTER_KILL, container.exited())
            .await
            .map_err(|_| Error::Deadline(format!("container {} did not end after SIGKILL", container.id)))
    }

    /// Sends a signal to a container's process, or to all of its processes.
    pub(super) async fn signal(&self, container: &Container, signal: u32, all: bool) -> Result<()> {
        let Ok(live) = self.pod(&container.record().sandbox_id)?.live().await else {
            return Ok(());
        };
        let request = agent::SignalRequest { process: Some(process(&container.id)), signal, all };
        match guest::call(live.guest.clone().signal(guest::request(request))).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(status) => Err(guest::refusal("cannot send the signal", status)),
        }
    }
}

/// "SIGTERM", "TERM" or "15"; SIGTERM when nothing is said.
pub fn signal_number(name: Option<&str>) -> Result<u32> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(Signal::SIGTERM as u32);
    };
    if let Ok(number) = name.parse::<u32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>()
        .map(|signal| signal as u32)
        .map_err(|_| Error::Invalid(format!("the image's stop signal {name:?} is not known")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_number(None).unwrap(), 15);
        assert_eq!(signal_number(Some("SIGQUIT")).unwrap(), 3);
        assert_eq!(signal_number(Some("usr1")).unwrap(), 10);
        assert_eq!(signal_number(Some("9")).unwrap(), 9);
        assert!(signal_number(Some("SIGNOPE")).is_err());
        assert!(signal_number(Some("99")).is_err());
    }
}
