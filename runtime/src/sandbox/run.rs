//! RunPodSandbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_failpoint::reach;
use husk_proto::{agent, cri};
use husk_vmm::config::slot_serial;

use super::resize::make_use;
use super::size::{Room, Size};
use super::start::{Plan, Started, Timed};
use super::{HOST_MIB, namespaces, resolv, scratch, tear_down};
use crate::caller::Caller;
use crate::cgroup::CgroupPath;
use crate::container::until_recorded;
use crate::error::{Error, Result};
use crate::events::Kind;
use crate::guest;
use crate::network::{Dns, GuestInterface, GuestRoute, PodNetworkRequest, PortMapping, Protocol};
use crate::node::{Live, Node, Pod, lock, new_id, now_nanos};
use crate::observe::metrics::StartStep;
use crate::observe::step;
use crate::store::{Phase, SandboxRecord};
use crate::vm::{self, DiskPiece, End, SCRATCH_SLOT, Slots, Vm};
use crate::volume::Volumes;

/// How long a guest may take to plug the memory that it does not boot with; a slow one is not refused.
const PLUG_LIMIT: Duration = Duration::from_secs(10);

impl Node {
    /// Boots a pod and answers its id. When the caller goes away meanwhile, nothing is left of it.
    pub async fn run_sandbox(
        self: &Arc<Self>,
        config: cri::PodSandboxConfig,
        handler: String,
        caller: &Caller,
    ) -> Result<String> {
        validate(&config)?;
        self.config.handler(&handler)?;
        crate::host::kvm()?;
        let metadata = config.metadata.clone();
        let id = new_id();
        tracing::Span::current().record("sandbox", id.as_str());
        let parent = config.linux.as_ref().map_or("", |linux| &linux.cgroup_parent);
        let cgroup = CgroupPath::of_pod(parent, &self.config.cgroup.parent, &id)?;
        let record = SandboxRecord {
            id,
            config: Some(config),
            runtime_handler: handler,
            created_at: now_nanos(),
            phase: Phase::Creating.into(),
            ..Default::default()
        };
        let pod = self.add_pod(record, |record, others| {
            let of_that_name = |other: &&SandboxRecord| {
                other.config.as_ref().is_some_and(|config| config.metadata == metadata)
            };
            if let Some(other) = others.iter().find(of_that_name) {
                let text = format!("a sandbox of the same name, {}, is there already", other.id);
                return Err(Error::Exists(text));
            }
            let taken = others.iter().map(|other| other.uid).collect();
            record.uid = vm::free_user(self.config.vm.uid_range, &taken)?;
            Ok(())
        })?;
        let _changing = pod.changing.lock().await;
        self.tell_of_pod(&pod, Kind::Created);
        match self.boot(&pod, cgroup, caller).await {
            Ok(()) => Ok(pod.id.clone()),
            Err(error) => {
                let error = self.with_last_words(&pod, error).await;
                match tear_down(self, &pod).await {
                    Ok(()) => {
                        self.forget_pod(&pod.id)?;
                        self.tell_of_pod(&pod, Kind::Deleted);
                    }
                    // Something of it may be left: it is there to be removed, as a pod that is not ready.
                    Err(e) => {
                        tracing::error!(sandbox = pod.id, "after a failed start: {e}");
                        self.update_pod(&pod, |record| {
                            record.phase = Phase::Stopped.into();
                            record.message =
                                format!("it could not be started ({error}), nor undone yet: {e}");
                        })?;
                    }
                }
                Err(error)
            }
        }
    }

    /// Adds to an error what the pod's VM said last, if it has ended: the reason may be there.
    async fn with_last_words(&self, pod: &Pod, error: Error) -> Error {
        // Its connections break a moment before its process ends.
        const MOMENT: Duration = Duration::from_millis(500);
        let (Error::Internal(text) | Error::Unavailable(text)) = &error else { return error };
        let Some(vm) = lock(&pod.vm).clone() else { return error };
        if text.contains("console: ") || tokio::time::timeout(MOMENT, vm.process.gone()).await.is_err() {
            return error;
        }
        Error::Internal(format!("{text}; the VM has ended; {}", vm::last_words(&self.pod_dir(&pod.id))))
    }

    async fn boot(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        cgroup: Option<CgroupPath>,
        caller: &Caller,
    ) -> Result<()> {
        let config = pod.record().config.unwrap_or_default();
        let metadata = config.metadata.clone().unwrap_or_default();
        let dir = self.pod_dir(&pod.id);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("make", &dir, e))?;
        let defaults = self.config.handler(&pod.record().runtime_handler)?;
        let size = Size::of(&config, false, &[], defaults);
        let room = Room::of(size, defaults);
        let memory_mib = size.memory_mib;
        if let Some(path) = cgroup {
            self.cgroups.make(&dir, &path)?;
            if self
                .cgroups
                .limit_above(&path)
                .is_some_and(|limit| limit < u64::from(memory_mib + HOST_MIB) << 20)
            {
                tracing::warn!(
                    sandbox = pod.id,
                    "the pod may use less memory than its VM of {memory_mib} MiB and {HOST_MIB} MiB beside it can take; \
                     the host will kill the VM then: give its RuntimeClass an overhead (podFixed)"
                );
            }
        }
        let scratch_bytes = scratch::bytes(&config.annotations, defaults)?;
        reach(format_args!("made a sandbox's cgroup"));
        let scratch = self.scratch.instantiate(&self.scratch_path(&pod.id), scratch_bytes)?;
        reach(format_args!("made a sandbox's scratch disk"));

        self.update_pod(pod, |record| {
            record.vcpus = size.vcpus.into();
            record.memory_mib = memory_mib;
            record.max_vcpus = room.max_vcpus.into();
            record.max_memory_mib = room.max_memory_mib;
        })?;
        let request = network_request(&pod.id, &metadata, &config)?;
        let plan = Plan { defaults, size, room, nets: &[] };
        let (setup, Timed { it: started, took: booted }) = self.start(pod, plan, &request, caller).await?;
        let Started { vm, mut guest, template, class } = started;
        let cloned = template.is_some();
        let Timed { it: setup, took: networked } = setup;
        reach(format_args!("started a sandbox's VM"));
        let configuring = Instant::now();
        let mut configure = agent::ConfigureSandboxRequest {
            hostname: if config.hostname.is_empty() { short_name(&pod.id) } else { config.hostname.clone() },
            sysctls: config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default(),
            scratch_serial: slot_serial(SCRATCH_SLOT),
            ..Default::default()
        };
        let mut ips = Vec::new();
        let mut dns = Dns::default();
        if let Some(setup) = setup {
            ips = setup.ips.iter().map(ToString::to_string).collect();
            dns = setup.dns;
            let interface = |interface: GuestInterface| agent::Interface {
                name: interface.name,
                mac: interface.mac,
                mtu: interface.mtu,
                addresses: interface.addresses,
            };
            configure.interfaces = setup.interfaces.into_iter().map(interface).collect();
            let route = |route: GuestRoute| agent::Route {
                destination: route.destination,
                gateway: route.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
                interface: route.interface,
            };
            configure.routes = setup.routes.into_iter().map(route).collect();
        }
        configure.resolv_conf = resolv::conf(config.dns_config.as_ref(), &dns);

        let scratch = vec![DiskPiece { file: scratch.into(), offset: 0, length: scratch_bytes }];
        let (configured, got) = step("configure", async {
            vm.attach(SCRATCH_SLOT, false, scratch).await?;
            configure.entropy = entropy()?;
            configure.time_nanos = now_nanos();
            let (configured, got) =
                tokio::join!(guest::call(guest.configure_sandbox(guest::request(configure))), async {
                    match memory_mib > size.boot_mib() {
                        // It has been asked for already, and is waited for here.
                        true => vm.resize(memory_mib, PLUG_LIMIT).await,
                        false => Ok(memory_mib),
                    }
                });
            let refusal = |status| guest::refusal("the guest could not be configured", status);
            Ok((configured.map_err(refusal)?, got?))
        })
        .await?;
        reach(format_args!("configured a sandbox's guest"));
        if got < memory_mib {
            tracing::warn!(sandbox = pod.id, "the guest has {got} MiB of {memory_mib} MiB of memory yet");
        } else if memory_mib > size.boot_mib() || cloned && size.vcpus > 1 {
            make_use(guest.clone(), size).await?;
        }

        let slots = Arc::new(tokio::sync::Mutex::new(Slots::new(defaults.block_slots)));
        let volumes = Arc::new(tokio::sync::Mutex::new(Volumes::new(&dir)));
        let size = Arc::new(tokio::sync::Mutex::new(Some(size)));
        let asked = guest.clone();
        caller.is_there()?;
        *pod.live.write().await = Some(Live { vm: vm.clone(), guest, slots, volumes, size });
        self.update_pod(pod, |record| {
            record.phase = Phase::Running.into();
            record.machine_id = machine_id(configured.machine_id);
            record.cloned = cloned;
            record.ips = ips;
        })?;
        self.tell_of_pod(pod, Kind::Started);
        self.watch_agent(pod.clone(), vm.clone(), asked);
        let vmm_pid = vm.process.pid;
        self.watch(pod.clone(), vm);
        let configure = configuring.elapsed();
        self.metrics.started(StartStep::Network, networked);
        self.metrics.started(if cloned { StartStep::Clone } else { StartStep::Boot }, booted);
        self.metrics.started(StartStep::Configure, configure);
        let ms = |d: Duration| d.as_millis() as u64;
        tracing::info!(
            sandbox = pod.id,
            pod = metadata.name,
            network_ms = ms(networked),
            boot_ms = ms(booted),
            cloned,
            configure_ms = ms(configure),
            "pod is ready"
        );
        let node = self.clone();
        match template {
            Some(template) if template.written.is_none() => {
                tokio::task::spawn_blocking(move || node.templates.learn(&template, vmm_pid));
            }
            Some(_) => {}
            None => {
                let defaults = defaults.clone();
                tokio::spawn(async move { node.templates.make(&class, &defaults, &node.metrics).await });
            }
        }
        Ok(())
    }

    /// Sees the VM's end and says why the pod is not ready any more.
    pub(super) fn watch(self: &Arc<Self>, pod: Arc<Pod>, vm: Arc<Vm>) {
        let node = self.clone();
        tokio::spawn(async move {
            let status = vm.process.end().await;
            if pod.record().phase() != Phase::Running {
                return;
            }
            let end = match node.cgroups.ran_out_of_memory(&node.pod_dir(&pod.id)) {
                true => End::OutOfMemory,
                false => End::of(status),
            };
            node.metrics.vm_ended(end.label());
            let why = end.describe(vm.process.pid);
            tracing::warn!(sandbox = pod.id, "{why}");
            node.lost(&pod, &why).await;
        });
    }

    /// Records that a ready pod has no VM any more, and why.
    pub(super) async fn lost(&self, pod: &Pod, why: &str) {
        *pod.live.write().await = None;
        for container in self.containers_of(&pod.id) {
            if container.record().phase() == Phase::Running {
                until_recorded(|| self.record_exit(&container, 255, "Error", why)).await;
            }
        }
        // Who takes the VM tells of its end: a pod that is being stopped meanwhile does it otherwise.
        let had_vm = lock(&pod.vm).take().is_some();
        until_recorded(|| {
            self.update_pod(pod, |record| {
                if record.phase() == Phase::Running {
                    record.phase = Phase::Stopped.into();
                    record.message = why.into();
                }
            })
        })
        .await;
        if had_vm {
            self.tell_of_pod(pod, Kind::Stopped);
        }
    }
}

fn validate(config: &cri::PodSandboxConfig) -> Result<()> {
    let Some(metadata) = &config.metadata else {
        return Err(Error::Invalid("the sandbox has no metadata; name, namespace and uid are needed".into()));
    };
    if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
        return Err(Error::Invalid("the sandbox's name, namespace and uid must not be empty".into()));
    }
    if config.hostname.len() > 64 {
        return Err(Error::Invalid(format!("hostname {:?} is longer than 64 bytes", config.hostname)));
    }
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    if let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) {
        namespaces::check(options)?;
    }
    Ok(())
}

fn network_request(
    id: &str,
    metadata: &cri::PodSandboxMetadata,
    config: &cri::PodSandboxConfig,
) -> Result<PodNetworkRequest> {
    Ok(PodNetworkRequest {
        sandbox_id: id.into(),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        port_mappings: config
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port > 0)
            .map(port_mapping)
            .collect::<Result<_>>()?,
    })
}

fn port_mapping(mapping: &cri::PortMapping) -> Result<PortMapping> {
    let port = |what: &str, value: i32| {
        u16::try_from(value)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Error::Invalid(format!("{what} {value} is not a port: use 1 to 65535")))
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => {
            Some(text.parse().map_err(|_| Error::Invalid(format!("host IP {text:?} is not an address")))?)
        }
    };
    Ok(PortMapping {
        host_port: port("host port", mapping.host_port)?,
        container_port: port("container port", mapping.container_port)?,
        protocol: match mapping.protocol() {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        host_ip,
    })
}

/// Fresh random bytes for a guest's pool.
fn entropy() -> Result<Vec<u8>> {
    let mut bytes = vec![0; 64];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::Internal(format!("getrandom: {e}")))?;
    bytes.truncate(got);
    Ok(bytes)
}

/// A machine id as a guest tells it; nothing if it is none.
fn machine_id(told: String) -> String {
    let fine = told.len() == 32 && told.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fine { told } else { String::new() }
}

fn short_name(id: &str) -> String {
    id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "n".into(),
                namespace: "ns".into(),
                uid: "u".into(),
                attempt: 0,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_a_guest_tells_is_a_machine_id_or_nothing() {
        let fine = "0123456789abcdefABCDEF0123456789";
        assert_eq!(machine_id(fine.into()), fine);
        let (long, foreign) = (format!("{fine}0"), format!("{}\n", &fine[1..]));
        // 32 bytes, but fewer characters.
        let wide = format!("{}é", &fine[2..]);
        for told in ["", &fine[1..], &long, &foreign, &wide] {
            assert_eq!(machine_id(told.to_owned()), "", "{told:?}");
        }
    }

    #[test]
    fn a_request_for_the_hosts_namespaces_is_refused_with_the_reason() {
        let mut config = config();
        validate(&config).unwrap();
        config.linux = Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    network: cri::NamespaceMode::Node.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert!(validate(&config).unwrap_err().to_string().contains("network"));
    }
}
