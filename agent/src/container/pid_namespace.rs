//! Whose PID namespace a container's processes are in.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use husk_proto::agent::create_container_request;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::Container;
use crate::error::{Context, Error, Result};
use crate::helper::{self, launch};
use crate::reaper::Reaper;

/// What a request says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PidNamespace {
    /// The container has its own.
    #[default]
    Own,
    /// It is in the one that containers of the pod share.
    Pod,
    /// It is in that of another container.
    Of(String),
}

impl From<Option<create_container_request::PidNamespace>> for PidNamespace {
    fn from(request: Option<create_container_request::PidNamespace>) -> Self {
        use create_container_request::PidNamespace as Request;
        match request {
            None | Some(Request::SharedPid(false)) => Self::Own,
            Some(Request::SharedPid(true)) => Self::Pod,
            Some(Request::PidOfContainer(id)) => Self::Of(id),
        }
    }
}

/// The PID namespace that containers of the pod share. It begins with the first of them.
#[derive(Default)]
pub struct PodPids(tokio::sync::Mutex<Option<Arc<File>>>);

impl PodPids {
    /// The namespace; it stays as long as the pod.
    pub async fn namespace(&self, reaper: &Arc<Reaper>) -> Result<Arc<File>> {
        let mut known = self.0.lock().await;
        if let Some(namespace) = known.as_ref() {
            return Ok(Arc::clone(namespace));
        }
        let starting = reaper.starting();
        let pid = launch::quiet(helper::HOLD).await?;
        let namespace = Arc::new(open(pid)?);
        reaper.watch(pid, Box::new(|code| tracing::error!("the pod's PID namespace has ended: {code}")));
        drop(starting);
        *known = Some(Arc::clone(&namespace));
        Ok(namespace)
    }
}

impl Container {
    /// The PID namespace that it runs in.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn running_pids(&self) -> Result<Arc<File>> {
        let stopped = || Error::State(format!("container {} is not running", self.id));
        let pid = self.process.pid().ok_or_else(stopped)?;
        let namespace = open(pid);
        // A process that had ended by then is not the one that was meant.
        if self.process.exit().is_some() { Err(stopped()) } else { namespace.map(Arc::new) }
    }
}

fn open(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/pid");
    File::open(&path).context(|| format!("opening {path}"))
}

/// Has the spec ask for `namespace`, which must stay open until the container runs.
pub fn join(spec: &mut Spec, namespace: &File) {
    // By the agent's descriptor, as the process that it belongs to may be another's by the time it is opened.
    let path = PathBuf::from(format!("/proc/1/fd/{}", namespace.as_raw_fd()));
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    for entry in namespaces.into_iter().flatten().filter(|entry| entry.typ() == LinuxNamespaceType::Pid) {
        entry.set_path(Some(path.clone()));
    }
}
