//! StartContainer.

use std::sync::Arc;

use husk_proto::agent::ExitStatus;

use super::{Container, Stage, Tools};
use crate::clock;
use crate::error::{Error, Result};
use crate::helper::{self, Task, launch};
use crate::paths;

/// What a container's exit code is said to be when its command is not there, cannot be executed, or when the
/// container could not be made, as shells and Docker have it.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const NOT_STARTED: i32 = 128;

impl Container {
    /// Runs the container's own process; answers its pid.
    pub async fn start(self: &Arc<Self>, tools: &Tools) -> Result<u32> {
        let mut stage = self.stage.lock().await;
        if *stage != Stage::Created {
            return Err(Error::State(format!("container {} has been started already", self.id)));
        }
        *stage = Stage::Started;
        let started = self.run(tools).await;
        if let Err(error) = &started {
            let code = match error {
                Error::NotFound(_) => NOT_FOUND,
                Error::State(_) => NOT_EXECUTABLE,
                _ => NOT_STARTED,
            };
            if let Err(e) = self.cgroup.kill() {
                tracing::warn!(container = self.id, "after a failed start: {e}");
            }
            self.process.ended(ExitStatus { code, time_nanos: clock::now_nanos(), oom_killed: false });
            self.process.output.close();
        }
        started
    }

    async fn run(self: &Arc<Self>, tools: &Tools) -> Result<u32> {
        self.cgroup.create(self.devices.as_deref())?;
        let task = Task {
            id: self.id.clone(),
            bundle: paths::bundle(&self.id),
            state: paths::STATE.into(),
            console: None,
            exec: None,
        };
        let starting = tools.reaper.starting();
        let pid = launch::run(helper::CREATE, task, &self.process, self.launch_options()).await?;
        self.process.started(pid);
        let container = Arc::clone(self);
        tools.reaper.watch(pid, Box::new(move |code| container.ended(code)));
        drop(starting);
        u32::try_from(pid).map_err(|_| Error::Internal(format!("{pid} is not a pid")))
    }

    fn launch_options(&self) -> launch::Options<'_> {
        launch::Options {
            terminal: self.template.terminal() == Some(true),
            stdin: self.stdin,
            user: &self.user,
        }
    }

    /// The container's own process is gone, and with it whatever else runs in the container: the kernel sees to
    /// that in a PID namespace of its own, and this in a shared one.
    fn ended(&self, code: i32) {
        if let Err(e) = self.cgroup.kill() {
            tracing::warn!(container = self.id, "killing what the container left: {e}");
        }
        let oom_killed = self.cgroup.oom_killed();
        self.process.ended(ExitStatus { code, time_nanos: clock::now_nanos(), oom_killed });
    }
}
