//! Exec.

use std::sync::Arc;

use husk_proto::agent::ExecRequest;

use super::{Container, MAX_EXECS, Stage, Tools, spec, terminal_size};
use crate::error::{Error, Result};
use crate::helper::{self, ExecTask, Task, launch};
use crate::ids;
use crate::paths;
use crate::process::Process;

impl Container {
    /// Starts one more process; answers its pid.
    pub async fn exec(self: &Arc<Self>, tools: &Tools, request: ExecRequest) -> Result<u32> {
        ids::check_id("exec id", &request.exec_id)?;
        if request.args.is_empty() {
            return Err(Error::Invalid("no command was given (args)".into()));
        }
        let process = Process::new(request.tty);
        process.set_initial_size(terminal_size(request.size));
        self.execs(|execs| {
            if execs.contains_key(&request.exec_id) {
                let text = format!("container {} has a process {:?} already", self.id, request.exec_id);
                return Err(Error::Exists(text));
            }
            if execs.len() >= MAX_EXECS {
                return Err(Error::Exhausted(format!(
                    "container {} has {MAX_EXECS} processes already",
                    self.id
                )));
            }
            execs.insert(request.exec_id.clone(), Arc::clone(&process));
            Ok(())
        })?;
        let started = self.run_exec(tools, &request, &process).await;
        if started.is_err() {
            self.execs(|execs| execs.remove(&request.exec_id));
        }
        started
    }

    async fn run_exec(
        self: &Arc<Self>,
        tools: &Tools,
        request: &ExecRequest,
        process: &Arc<Process>,
    ) -> Result<u32> {
        // A container that is being started or deleted is waited for.
        let stage = *self.stage.lock().await;
        let stopped = || Error::State(format!("container {} is not running", self.id));
        let container_pid = self.process.pid().filter(|_| stage == Stage::Started).ok_or_else(stopped)?;
        let task = Task {
            id: self.id.clone(),
            bundle: paths::bundle(&self.id),
            state: paths::STATE.into(),
            console: None,
            exec: Some(ExecTask {
                container_pid,
                cgroup: self.cgroup.path().to_owned(),
                user_namespace: self.shared.is_some(),
                process: spec::exec_process(&self.template, request.args.clone(), &request.env, request.tty),
            }),
        };
        let options = launch::Options { terminal: request.tty, stdin: request.stdin, owner: self.owner };
        let starting = tools.reaper.starting();
        let pid = match launch::run(helper::EXEC, task, process, options).await {
            // It ended in the meantime, which says more than what the helper met.
            Err(_) if self.process.exit().is_some() => return Err(stopped()),
            launched => launched?,
        };
        process.started(pid);
        let (cgroup, process) = (self.cgroup.clone(), Arc::clone(process));
        tools.reaper.watch(
            pid,
            Box::new(move |code| {
                process.ended(code, cgroup.oom_killed());
            }),
        );
        drop(starting);
        u32::try_from(pid).map_err(|_| Error::Internal(format!("{pid} is not a pid")))
    }
}
