//! Makes and starts a container with youki's libcontainer.

use std::error::Error;
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use super::Task;
use super::execve::Execve;
use super::report::Reporter;

/// Runs in the helper process.
pub fn run(task: &Task, reporter: &Arc<Reporter>) -> Result<(), String> {
    let mut container = ContainerBuilder::new(task.id.clone(), SyscallType::default())
        .with_executor(Execve(Arc::clone(reporter)))
        .with_root_path(&task.state)
        .and_then(ContainerBuilder::validate_id)
        .map_err(|e| chain(&e))?
        .with_console_socket(task.console.clone())
        .as_init(&task.bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|e| chain(&e))?;
    match container.pid() {
        Some(pid) => reporter.pid(pid.as_raw()),
        None => return Err("the container library made no process".into()),
    }
    container.start().map_err(|e| chain(&e))
}

/// The library's errors say little without their sources.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
