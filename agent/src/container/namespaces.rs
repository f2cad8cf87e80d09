//! Whose namespaces a container's processes are in.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use husk_proto::agent::create_container_request;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::Container;
use super::id_mappings::{IdMappings, owner};
use crate::error::{Context, Error, Result};
use crate::helper::launch;
use crate::owner::Owner;
use crate::reaper::Reaper;

/// What a request says of its PID namespace.
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

/// The namespaces that containers of the pod share. They begin with the first who needs them.
#[derive(Default)]
pub struct PodNamespaces(tokio::sync::Mutex<Option<Arc<Shared>>>);

/// The pod's namespaces. A process of its own keeps them as long as the pod.
pub struct Shared {
    /// The user namespace; `None`: the guest's own.
    pub users: Option<PodUsers>,
    /// The PID namespace, which belongs to the user namespace. Containers are in it if they say so.
    pub pids: Arc<File>,
}

/// The pod's user namespace.
pub struct PodUsers {
    /// As a descriptor.
    pub namespace: File,
    /// Its ids.
    pub mappings: IdMappings,
    /// Its root.
    pub root: Owner,
}

impl PodNamespaces {
    /// The namespaces, with a user namespace of those ids.
    ///
    /// # Errors
    /// [`Error::State`] when they are there with others.
    pub async fn get(&self, reaper: &Arc<Reaper>, mappings: Option<&IdMappings>) -> Result<Arc<Shared>> {
        let mut known = self.0.lock().await;
        if let Some(shared) = known.as_ref() {
            if shared.users.as_ref().map(|users| &users.mappings) != mappings {
                return Err(Error::State(
                    "other containers of the pod are in another user namespace: in a pod all have the same ids".into(),
                ));
            }
            return Ok(Arc::clone(shared));
        }
        let starting = reaper.starting();
        let pid = launch::hold(mappings).await?;
        let users = match mappings {
            None => None,
            Some(mappings) => Some(PodUsers {
                namespace: open(pid, "user")?,
                mappings: *mappings,
                root: owner(0, 0, Some(mappings))?,
            }),
        };
        let shared = Arc::new(Shared { users, pids: Arc::new(open(pid, "pid")?) });
        reaper.watch(pid, Box::new(|code| tracing::error!("the pod's namespaces have ended: {code}")));
        drop(starting);
        *known = Some(Arc::clone(&shared));
        Ok(shared)
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
        let namespace = open(pid, "pid");
        // A process that had ended by then is not the one that was meant.
        if self.process.exit().is_some() { Err(stopped()) } else { namespace.map(Arc::new) }
    }
}

fn open(pid: i32, kind: &str) -> Result<File> {
    let path = format!("/proc/{pid}/ns/{kind}");
    File::open(&path).context(|| format!("opening {path}"))
}

/// Has the spec ask for `namespace`, which must stay open until the container runs.
pub fn join(spec: &mut Spec, kind: LinuxNamespaceType, namespace: &File) {
    // By the agent's descriptor, as the process that it belongs to may be another's by the time it is opened.
    let path = PathBuf::from(format!("/proc/1/fd/{}", namespace.as_raw_fd()));
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    for entry in namespaces.into_iter().flatten().filter(|entry| entry.typ() == kind) {
        entry.set_path(Some(path.clone()));
    }
}
