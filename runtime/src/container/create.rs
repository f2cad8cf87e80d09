//! CreateContainer.

use std::sync::Arc;

use husk_failpoint::reach;
use husk_proto::agent::create_container_request;
use husk_proto::{agent, cri};
use husk_vmm::config::slot_serial;

use super::volumes::Volumes;
use super::{device, disk, log_path, spec};
use crate::caller::Caller;
use crate::error::{Error, Result};
use crate::guest;
use crate::node::{Container, Live, Node, Pod, new_id, now_nanos};
use crate::observe::step;
use crate::sandbox::{Beyond, namespaces};
use crate::store::{ContainerRecord, Phase};

impl Node {
    /// Makes a container ready to be started and answers its id. When the caller goes away meanwhile, nothing is left of
    /// it.
    pub async fn create_container(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        caller: &Caller,
    ) -> Result<String> {
        let pod = self.pod(sandbox_id)?;
        let live = pod.live().await?;
        let pod_config = pod.record().config.unwrap_or_default();
        let Some(metadata) = config.metadata.clone().filter(|metadata| !metadata.name.is_empty()) else {
            return Err(Error::Invalid("the container has no metadata or an empty name".into()));
        };
        let wanted = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.image(&wanted)?;
        let log = log_path::join(&pod_config.log_directory, &config.log_path)?;
        let id = new_id();
        tracing::Span::current().record("container", id.as_str());
        let users = namespaces::of_container(&pod_config, namespace_options(&config))?;
        let volumes = self.volumes(&pod, &config, users.as_ref())?;
        let request = agent::CreateContainerRequest {
            id: id.clone(),
            oci_spec: spec::build(&id, &config, &image.config, &pod_config, &volumes, users.as_ref())?,
            rootfs: None,
            user: Some(spec::user(&config, &image.config)?),
            stdin: config.stdin,
            pid_namespace: self.pid_namespace(&pod.id, &config)?,
            guest_volumes: Vec::new(),
        };
        let mut rootfs = agent::RootFs { read_only: spec::read_only_root(&config), ..Default::default() };
        if image.is_disk {
            rootfs.disk = Some(disk::machine_disk(&self.images.disk(&image.id)?, &config, &pod_config)?);
        }
        let stop_signal = image.config.config().as_ref().and_then(|c| c.stop_signal().clone());
        let record = ContainerRecord {
            id,
            sandbox_id: pod.id.clone(),
            config: Some(config),
            image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
            image_id: image.id,
            created_at: now_nanos(),
            phase: Phase::Creating.into(),
            log_path: log,
            stop_signal: super::stop::signal_number(stop_signal.as_deref())?,
            media: volumes.media.clone(),
            ..Default::default()
        };
        let container = self.add_container(record, |other| {
            let named = other.config.as_ref().and_then(|config| config.metadata.as_ref());
            if other.sandbox_id == pod.id && named == Some(&metadata) {
                let text = format!("a container of the same name, {}, is there already", other.id);
                return Err(Error::Exists(text));
            }
            device::check_beside(&pod.id, &volumes.media, other, |id| self.has_vm(id))
        })?;
        let _changing = container.changing.lock().await;
        let made = async {
            step("make room", self.make_room(&pod, &live, None, Beyond::Capped)).await?;
            caller.is_there()?;
            self.create_in_guest(&pod, &live, &container, request, rootfs, &volumes).await?;
            caller.is_there()
        };
        match made.await {
            Ok(()) => Ok(container.id.clone()),
            Err(error) => {
                // The guest may have come further than its answer.
                let delete = agent::DeleteContainerRequest { id: container.id.clone() };
                let _ = guest::call(live.guest.clone().delete_container(guest::request(delete))).await;
                if let Err(e) = live.volumes.lock().await.remove(&container.id) {
                    tracing::error!(container = container.id, "after a failed creation: {e}");
                }
                self.release_media(&live, &container).await;
                self.forget_container(&container.id)?;
                self.fit(&pod, &live).await;
                Err(error)
            }
        }
    }

    /// Whose PID namespace the container asks to be in. Without any namespace options it has its own, as kubelet's
    /// containers have.
    fn pid_namespace(
        &self,
        sandbox_id: &str,
        config: &cri::ContainerConfig,
    ) -> Result<Option<create_container_request::PidNamespace>> {
        use create_container_request::PidNamespace;
        let Some(options) = namespace_options(config) else { return Ok(None) };
        namespaces::check(options)?;
        Ok(match options.pid() {
            cri::NamespaceMode::Pod => Some(PidNamespace::SharedPid(true)),
            // The check has refused the host's.
            cri::NamespaceMode::Container | cri::NamespaceMode::Node => None,
            cri::NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                if target.record().sandbox_id != sandbox_id {
                    return Err(Error::Invalid(format!(
                        "the container {:?}, whose processes are to be seen (target_id), is of another pod",
                        options.target_id
                    )));
                }
                Some(PidNamespace::PidOfContainer(target.id.clone()))
            }
        })
    }

    async fn create_in_guest(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        live: &Live,
        container: &Container,
        mut request: agent::CreateContainerRequest,
        mut rootfs: agent::RootFs,
        volumes: &Volumes,
    ) -> Result<()> {
        let watch = |end| self.watch_volumes(pod.clone(), live.vm.clone(), end);
        step("share volumes", async {
            let mut shared = live.volumes.lock().await;
            shared
                .add(&self.config.volumes, &self.cgroups, &live.vm, &container.id, &volumes.host, watch)
                .await
        })
        .await?;
        reach(format_args!("made a container's volumes"));
        let (image, media) = step("attach disks", self.take_media(live, container)).await?;
        reach(format_args!("attached a container's disks"));
        rootfs.image_serial = slot_serial(image);
        request.rootfs = Some(rootfs);
        request.guest_volumes = volumes.guest.iter().map(|volume| volume.request(&media)).collect();
        let answer = step("create in the guest", async {
            let made = guest::call(live.guest.clone().create_container(guest::request(request))).await;
            made.map_err(|status| guest::refusal("the guest could not make the container", status))
        })
        .await?;
        reach(format_args!("made a container in the guest"));
        self.update_container(container, |record| {
            record.user = answer.user;
            record.phase = Phase::Created.into();
        })
    }

    /// The image of that name or id.
    fn image(&self, name: &str) -> Result<husk_images::Image> {
        self.images.status(name)?.ok_or_else(|| Error::NotFound { kind: "image", id: name.into() })
    }
}

fn namespace_options(config: &cri::ContainerConfig) -> Option<&cri::NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}
