//! Makes and starts a container with youki's libcontainer.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Spec;

use super::Task;
use super::execve::Execve;
use super::report::Reporter;
use super::tried;

/// Runs in the helper process.
pub fn run(task: &Task, reporter: &Arc<Reporter>) -> Result<(), String> {
    let _open = open_namespaces(task)?;
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

/// Opens the namespaces that the spec joins and has it name the descriptors, which are to stay open: the library opens
/// them one after the other, and once it is in a user namespace it may not do so by the agent's descriptors.
fn open_namespaces(task: &Task) -> Result<Vec<File>, String> {
    let path = task.bundle.join("config.json");
    let mut spec = tried("loading the spec", Spec::load(&path))?;
    let mut open = Vec::new();
    let linux = spec.linux_mut().as_mut();
    for namespace in linux.and_then(|linux| linux.namespaces_mut().as_mut()).into_iter().flatten() {
        if let Some(path) = namespace.path() {
            let file = tried(&format!("opening {}", path.display()), File::open(path))?;
            namespace.set_path(Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into()));
            open.push(file);
        }
    }
    if !open.is_empty() {
        tried("saving the spec", spec.save(&path))?;
    }
    Ok(open)
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
