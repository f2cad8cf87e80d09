//! CreateContainer.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use husk_proto::agent::{CreateContainerRequest, RootFs, TerminalSize, User};
use oci_spec::runtime::{Process as OciProcess, Spec};

use super::id_mappings::{IdMappings, owner as owner_of};
use super::namespaces::Shared;
use super::root::Root;
use super::usage::Usage;
use super::user::{Identity, resolve_in};
use super::volumes::Volumes;
use super::{Container, Stage, Tools, spec, terminal_size, user_namespace};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::fair_server;
use crate::inroot;
use crate::owner::Owner;
use crate::paths;
use crate::process::Process;
use crate::sandbox;

impl Container {
    /// Mounts the root, resolves the user and writes the bundle. The id has been checked and is nobody's.
    pub async fn create(tools: &Tools, request: CreateContainerRequest) -> Result<Arc<Self>> {
        let mut spec = spec::parse(&request.oci_spec)?;
        let mappings = IdMappings::of(&spec)?;
        let rootfs =
            request.rootfs.ok_or_else(|| Error::Invalid("the request names no image (rootfs)".into()))?;
        let shared = match &mappings {
            None => None,
            Some(mappings) => Some(tools.namespaces.get(&tools.reaper, Some(mappings)).await?),
        };
        let users = shared.as_ref().and_then(|shared| shared.users.as_ref());
        sandbox::volumes::mount_for(&spec)?;
        let bundle = paths::bundle(&request.id);
        fs::create_dir_all(&bundle).context(|| format!("making {}", bundle.display()))?;
        let volumes = Volumes::make(tools, &request.id, &request.guest_volumes, &mut spec, users).await?;
        let root = match Root::mount(&tools.images, &request.id, &rootfs, users).await {
            Ok(root) => root,
            Err(error) => {
                volumes.give_up(tools).await;
                return Err(error);
            }
        };
        let user = request.user.unwrap_or_default();
        let prepared = prepare(&request.id, &mut spec, &rootfs, &user, root.place(), shared.as_deref());
        let (identity, template, owner) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                if let Err(e) = root.unmount(&tools.images).await {
                    tracing::warn!(container = request.id, "after a failed creation: {e}");
                }
                volumes.give_up(tools).await;
                let _ = fs::remove_dir_all(&bundle);
                return Err(error);
            }
        };
        let process = Process::new(template.terminal() == Some(true));
        process.set_initial_size(initial_size(&template));
        Ok(Arc::new(Self {
            cgroup: Cgroup::of(&request.id),
            id: request.id,
            template,
            user: identity.user,
            owner,
            stdin: request.stdin,
            process,
            devices: spec.linux().as_ref().and_then(|l| l.resources().as_ref()?.devices().clone()),
            execs: Mutex::default(),
            root,
            volumes,
            pids: request.pid_namespace.into(),
            shared,
            usage: Usage::default(),
            stage: tokio::sync::Mutex::new(Stage::Created),
        }))
    }
}

fn prepare(
    id: &str,
    spec: &mut Spec,
    rootfs: &RootFs,
    user: &User,
    root: &Path,
    shared: Option<&Shared>,
) -> Result<(Identity, OciProcess, Owner)> {
    let inside = inroot::Root::open(root).context(|| format!("opening {}", root.display()))?;
    let identity = resolve_in(&inside, user)?;
    let users = shared.and_then(|shared| shared.users.as_ref());
    let mappings = users.map(|users| &users.mappings);
    let owner = owner_of(identity.user.uid, identity.user.gid, mappings)?;
    for group in &identity.user.groups {
        owner_of(identity.user.uid, *group, mappings)?;
    }
    if let Some(shared) = shared {
        user_namespace::join(spec, shared)?;
    }
    spec::complete(spec, id, &identity.user, &identity.home, rootfs.read_only);
    let process =
        spec.process().clone().ok_or_else(|| Error::Invalid("the OCI spec has no process".into()))?;
    fair_server::keep_for(&process);
    inside
        .create_dir_all(process.cwd(), users.map(|users| users.root).unwrap_or_default())
        .context(|| format!("making the working directory {}", process.cwd().display()))?;
    let config = paths::bundle(id).join("config.json");
    let json = serde_json::to_vec(spec).map_err(|e| Error::Internal(format!("writing the OCI spec: {e}")))?;
    fs::write(&config, json).context(|| format!("writing {}", config.display()))?;
    Ok((identity, process, owner))
}

/// The terminal's size that the spec asks for (`process.consoleSize`).
fn initial_size(process: &OciProcess) -> Option<TerminalSize> {
    let size = process.console_size()?;
    let cells = |n: u64| u32::try_from(n).ok();
    terminal_size(Some(TerminalSize { rows: cells(size.height())?, columns: cells(size.width())? }))
}
