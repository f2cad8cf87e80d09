//! StartContainer.

use std::sync::Arc;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::namespaces::Shared;
use super::{Container, PidNamespace, Stage, Tools, namespaces};
use crate::error::{Error, Result};
use crate::helper::{self, Task, launch};
use crate::paths;

/// What a container's exit code is said to be when its command is not there, cannot be executed, or when the
/// container could not be made, as shells and Docker have it.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const NOT_STARTED: i32 = 128;

impl Container {
    /// Runs the container's own process; answers its pid. `find` knows the pod's containers by their ids.
    pub async fn start(
        self: &Arc<Self>,
        tools: &Tools,
        find: impl Fn(&str) -> Result<Arc<Container>>,
    ) -> Result<u32> {
        let mut stage = self.stage.lock().await;
        if *stage != Stage::Created {
            return Err(Error::State(format!("container {} has been started already", self.id)));
        }
        *stage = Stage::Started;
        let started = self.run(tools, find).await;
        if let Err(error) = &started {
            let code = match error {
                Error::NotFound(_) => NOT_FOUND,
                Error::State(_) => NOT_EXECUTABLE,
                _ => NOT_STARTED,
            };
            if let Err(e) = self.cgroup.kill() {
                tracing::warn!(container = self.id, "after a failed start: {e}");
            }
            self.process.ended(code, false);
            self.process.output.close();
        }
        started
    }

    async fn run(
        self: &Arc<Self>,
        tools: &Tools,
        find: impl Fn(&str) -> Result<Arc<Container>>,
    ) -> Result<u32> {
        let pids = match &self.pids {
            PidNamespace::Own => None,
            PidNamespace::Pod => Some(Arc::clone(&self.pod_namespaces(tools).await?.pids)),
            PidNamespace::Of(id) => Some(
                find(id)
                    .and_then(|target| target.running_pids())
                    .map_err(|e| Error::Invalid(e.to_string()))?,
            ),
        };
        if let Some(pids) = &pids {
            self.change_spec(|spec| namespaces::join(spec, LinuxNamespaceType::Pid, pids))?;
        }
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

    async fn pod_namespaces(&self, tools: &Tools) -> Result<Arc<Shared>> {
        match &self.shared {
            Some(shared) => Ok(Arc::clone(shared)),
            None => tools.namespaces.get(&tools.reaper, None).await,
        }
    }

    /// Changes the spec that the container will be started by.
    pub(super) fn change_spec(&self, change: impl FnOnce(&mut Spec)) -> Result<()> {
        let path = paths::bundle(&self.id).join("config.json");
        let failed = |e| Error::Internal(format!("changing {}: {e}", path.display()));
        let mut spec = Spec::load(&path).map_err(failed)?;
        change(&mut spec);
        spec.save(&path).map_err(failed)
    }

    fn launch_options(&self) -> launch::Options {
        launch::Options {
            terminal: self.template.terminal() == Some(true),
            stdin: self.stdin,
            owner: self.owner,
        }
    }

    /// The container's own process is gone, and with it whatever else runs in the container: the kernel sees to
    /// that in a PID namespace of its own, and this in a shared one.
    fn ended(&self, code: i32) {
        if let Err(e) = self.cgroup.kill() {
            tracing::warn!(container = self.id, "killing what the container left: {e}");
        }
        self.process.ended(code, self.cgroup.oom_killed());
    }
}
