//! The last step of a container's process: becoming the command.

use std::collections::HashMap;
use std::ffi::{CString, NulError};
use std::sync::Arc;

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use oci_spec::runtime::{Process, Spec};

use super::report::Reporter;
use crate::sys;

/// Where commands are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes the command for the container library and tells the agent when that fails. (The library's own
/// executor tells nobody, leaves SIGPIPE ignored, and refuses files that "others" may not execute.)
#[derive(Clone)]
pub struct Execve(pub Arc<Reporter>);

impl Executor for Execve {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        Err(ExecutorError::Other(become_command(process, &self.0)))
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is given to execve as the spec has it.
        Ok(())
    }
}

/// Executes the process's command; returns only when that failed, which has been reported by then.
pub fn become_command(process: &Process, reporter: &Reporter) -> String {
    let args = process.args().clone().unwrap_or_default();
    let env = process.env().clone().unwrap_or_default();
    let Some(name) = args.first().cloned() else {
        reporter.error("no command was given");
        return "no command was given".into();
    };
    let (errno, path) = match try_exec(&name, &args, &env) {
        Ok(failed) => failed,
        Err(_) => (Errno::EINVAL, name.clone()),
    };
    let text = format!("cannot execute {path:?}: {}", errno.desc());
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            reporter.missing(&format!("command {name:?} not found in the container: {}", errno.desc()));
        }
        _ => reporter.denied(&text),
    }
    text
}

fn try_exec(name: &str, args: &[String], env: &[String]) -> Result<(Errno, String), NulError> {
    let args = args.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<Vec<_>, _>>()?;
    let env = env.iter().map(|var| CString::new(var.as_str())).collect::<Result<Vec<_>, _>>()?;
    let _ = sys::default_sigpipe();
    let mut failed = (Errno::ENOENT, name.to_owned());
    for path in candidates(name, &env) {
        let file = CString::new(path.as_str())?;
        if name.contains('/') || access(path.as_str(), AccessFlags::X_OK).is_ok() {
            let Err(errno) = execve(&file, &args, &env);
            failed = (errno, path);
        } else if Errno::last() == Errno::EACCES {
            failed = (Errno::EACCES, path);
        }
    }
    Ok(failed)
}

/// The files that `name` may mean: itself when it has a slash, otherwise one in each directory of PATH.
fn candidates(name: &str, env: &[CString]) -> Vec<String> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path =
        env.iter().rev().find_map(|var| var.to_str().ok()?.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[&str]) -> Vec<CString> {
        vars.iter().map(|var| CString::new(*var).unwrap()).collect()
    }

    #[test]
    fn commands_are_looked_for_along_path() {
        assert_eq!(candidates("sh", &env(&["A=b", "PATH=/a:/b"])), ["/a/sh", "/b/sh"]);
        assert_eq!(candidates("./sh", &env(&["PATH=/a"])), ["./sh"]);
        assert_eq!(candidates("sh", &env(&["PATH=/a::/b"])), ["/a/sh", "./sh", "/b/sh"]);
        assert!(candidates("sh", &env(&[])).contains(&"/bin/sh".to_owned()));
        assert!(candidates("", &env(&["PATH=/a"])).is_empty());
    }
}
