//! StartContainer, and how its end is recorded.

use std::sync::Arc;
use std::time::Duration;

use husk_failpoint::reach;
use husk_proto::agent;
use tracing::Instrument;

use super::Logger;
use super::logger::{RETRY, is_break};
use super::process::process;
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::{Container, Node, lock, now_nanos};
use crate::observe::{about, step};
use crate::store::Phase;

/// How long the last of the output may take after the process has exited.
const DRAIN: Duration = Duration::from_secs(10);

/// The wait before what the host did not let be done is tried again.
const LATER: Duration = Duration::from_secs(1);

impl Node {
    /// Runs a created container's process.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        let record = container.record();
        if record.phase() != Phase::Created {
            return Err(Error::State(format!(
                "container {} is {:?}; only a created one can be started",
                container.id,
                record.phase()
            )));
        }
        let live = self.pod(&record.sandbox_id)?.live().await?;
        Logger::check(self, &record)?;
        let mut agent = live.guest.clone();
        let request = guest::request(agent::StartContainerRequest { id: container.id.clone() });
        let started = step("start in the guest", async {
            let started = guest::call(agent.start_container(request)).await;
            started.map_err(|status| guest::refusal("the container could not be started", status))
        });
        if let Err(error) = started.await {
            self.record_exit(&container, 128, "StartError", &error.to_string())?;
            return Err(error);
        }
        reach(format_args!("started a container in the guest"));
        self.update_container(&container, |record| {
            record.started_at = now_nanos();
            record.phase = Phase::Running.into();
        })?;
        self.follow(&container, agent).await;
        Ok(())
    }

    /// Writes the log and waits for the end of a running container. Where that cannot be done now, it is tried again as long
    /// as the container runs.
    pub async fn follow(self: &Arc<Self>, container: &Arc<Container>, agent: Guest) {
        let Err(e) = self.try_follow(container, agent.clone()).await else { return };
        tracing::error!(container = container.id, "its output and its end are not followed yet: {e}");
        let (node, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let runs =
                async || container.record().phase() == Phase::Running && node.pod_is_live(&container).await;
            while runs().await {
                tokio::time::sleep(LATER).await;
                if node.try_follow(&container, agent.clone()).await.is_ok() {
                    return tracing::info!(container = container.id, "its output and its end are followed");
                }
            }
        });
    }

    async fn try_follow(self: &Arc<Self>, container: &Arc<Container>, mut agent: Guest) -> Result<()> {
        let (logger, logged) = Logger::start(self, container, agent.clone()).await?;
        *lock(&container.logger) = Some(logger);
        let (node, container) = (self.clone(), container.clone());
        let span = about(&container.record().sandbox_id, &container.id);
        let followed = async move {
            let exit = node.wait_for_exit(&container, &mut agent).await;
            if tokio::time::timeout(DRAIN, logged).await.is_err() {
                tracing::warn!("the output did not end with the process");
            }
            lock(&container.logger).take();
            match exit {
                // The pod's end is seen and recorded by who watches the VM; this is the agent's alone.
                None if node.pod_is_live(&container).await => {
                    let why = "the guest's agent lost the process";
                    until_recorded(|| node.record_exit(&container, 255, "Error", why)).await;
                }
                None => {}
                Some(exit) => {
                    let code = exit.code.clamp(0, 255);
                    let reason = match (exit.oom_killed, code) {
                        (true, _) => "OOMKilled",
                        (false, 0) => "Completed",
                        (false, _) => "Error",
                    };
                    let started = container.record().started_at;
                    let at = started.saturating_add_unsigned(exit.lived_nanos);
                    until_recorded(|| node.record_exit_at(&container, at, code, reason, "")).await;
                }
            }
        };
        tokio::spawn(followed.instrument(span));
        Ok(())
    }

    /// Marks a container exited, once.
    pub fn record_exit(&self, container: &Container, code: i32, reason: &str, message: &str) -> Result<()> {
        self.record_exit_at(container, now_nanos(), code, reason, message)
    }

    /// The same when it is known when it was, nanoseconds since the Unix epoch: it may be long ago, where no daemon was
    /// there to see it. A guest that lies about it is believed within the container's own life.
    fn record_exit_at(
        &self,
        container: &Container,
        at: i64,
        code: i32,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        self.update_container(container, |record| {
            if record.phase() >= Phase::Stopped {
                return;
            }
            record.phase = Phase::Stopped.into();
            record.finished_at = at.min(now_nanos()).max(record.started_at);
            record.exit_code = code;
            record.reason = reason.into();
            record.message = message.into();
        })
    }

    /// How the process ended, asked again after each broken connection; `None` when the agent cannot tell.
    async fn wait_for_exit(&self, container: &Container, agent: &mut Guest) -> Option<agent::ExitStatus> {
        loop {
            let request = agent::WaitRequest { process: Some(process(&container.id)) };
            match agent.wait(tonic::Request::new(request)).await {
                Ok(answer) => return answer.into_inner().exit,
                Err(status) if is_break(&status) && self.pod_is_live(container).await => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(_) => return None,
            }
        }
    }

    /// Whether the container's pod has a VM that runs.
    pub async fn pod_is_live(&self, container: &Container) -> bool {
        match self.pod(&container.record().sandbox_id) {
            Ok(pod) => pod.live().await.is_ok_and(|live| !live.vm.process.is_gone()),
            Err(_) => false,
        }
    }
}

/// Records an end, as soon as the store takes it: it is told once by who saw it, and must not be lost to a full disk. What
/// is forgotten meanwhile needs no record, and the store takes that at once.
pub async fn until_recorded(record: impl Fn() -> Result<()>) {
    let mut told = false;
    while let Err(e) = record() {
        if !std::mem::replace(&mut told, true) {
            tracing::error!("an end cannot be recorded yet: {e}");
        }
        tokio::time::sleep(LATER).await;
    }
}
