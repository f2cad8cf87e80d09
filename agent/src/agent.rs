//! The pod: its sandbox and its containers by their ids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use husk_proto::agent::CreateContainerRequest;

use crate::cgroup;
use crate::container::{Container, Tools};
use crate::error::{Error, Result};
use crate::ids;
use crate::sandbox::Sandbox;

/// The most containers of one pod.
const MAX_CONTAINERS: usize = 1024;

/// Everything the agent knows.
#[derive(Default)]
pub struct Agent {
    /// The pod as a whole.
    pub sandbox: Sandbox,
    /// What containers are made with.
    pub tools: Tools,
    /// `None`: being created.
    containers: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
}

impl Agent {
    fn containers<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Option<Arc<Container>>>) -> T) -> T {
        f(&mut self.containers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The container of that id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.containers(|all| all.get(id).cloned().flatten())
            .ok_or_else(|| Error::NotFound(format!("no container {id:?} in this pod")))
    }

    /// All containers.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.containers(|all| all.values().flatten().cloned().collect())
    }

    /// Creates a container.
    pub async fn create(&self, request: CreateContainerRequest) -> Result<Arc<Container>> {
        self.sandbox.ready().await?;
        let id = request.id.clone();
        ids::check_id("container id", &id)?;
        self.containers(|all| {
            if all.contains_key(&id) {
                return Err(Error::Exists(format!("there is a container {id:?} already")));
            }
            if all.len() >= MAX_CONTAINERS {
                return Err(Error::Exhausted(format!("the pod has {MAX_CONTAINERS} containers already")));
            }
            all.insert(id.clone(), None);
            Ok(())
        })?;
        let created = Container::create(&self.tools, request).await;
        self.containers(|all| match &created {
            Ok(container) => all.insert(id, Some(Arc::clone(container))),
            Err(_) => all.remove(&id),
        });
        created
    }

    /// Deletes a container; there need not be one.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let container = match self.containers(|all| all.get(id).cloned()) {
            None => return Ok(()),
            Some(None) => return Err(Error::State(format!("container {id:?} is being created"))),
            Some(Some(container)) => container,
        };
        container.delete(&self.tools).await?;
        self.containers(|all| match all.get(id) {
            // Not one that was created after a second deletion was done first.
            Some(Some(known)) if Arc::ptr_eq(known, &container) => all.remove(id),
            _ => None,
        });
        Ok(())
    }

    /// Kills all containers.
    pub fn kill_all(&self) {
        if let Err(e) = cgroup::all().kill() {
            tracing::warn!("killing the containers: {e}");
        }
    }
}
