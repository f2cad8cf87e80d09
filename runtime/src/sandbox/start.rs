//! A pod's VM comes to life: as a clone of a template, or by booting.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_failpoint::reach;
use husk_vmm::config::RestoreConfig;

use super::size::{Room, Size};
use crate::caller::Caller;
use crate::config::{HANDLER, TemplateScope, VmDefaults};
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::network::{PodNetworkRequest, PodNetworkSetup};
use crate::node::{Node, Pod, lock};
use crate::observe::step;
use crate::store::SandboxRecord;
use crate::template::{Class, Trust};
use crate::vm::{Trace, Vm, VmNet, VmSpec, last_words};

/// How long a clone may take until its agent answers, on the slowest of hosts.
const CLONE_LIMIT: Duration = Duration::from_secs(30);
/// Between two attempts to reach it.
const KNOCK_AGAIN: Duration = Duration::from_millis(1);

/// What a pod's VM is to be.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    /// Of its pod's handler.
    pub defaults: &'a VmDefaults,
    pub size: Size,
    /// How large it may become.
    pub room: Room,
    pub nets: &'a [VmNet],
}

/// A VM whose agent answers.
pub(super) struct Started {
    pub vm: Arc<Vm>,
    pub guest: Guest,
    /// Of which it is a clone, if it has not booted.
    pub template: Option<RestoreConfig>,
    /// That of its template, or of the one that its next can be a clone of.
    pub class: Class,
}

/// What has come, and after which time.
pub(super) struct Timed<T> {
    pub it: T,
    pub took: Duration,
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Timed<T>> {
    let begun = Instant::now();
    let it = work.await?;
    Ok(Timed { it, took: begun.elapsed() })
}

impl Node {
    /// Makes a pod's network, if pods have any, and starts its VM meanwhile. The plan's interfaces are this one's.
    pub(super) async fn start(
        &self,
        pod: &Arc<Pod>,
        plan: Plan<'_>,
        request: &PodNetworkRequest,
        caller: &Caller,
    ) -> Result<(Timed<Option<PodNetworkSetup>>, Timed<Started>)> {
        let vm = async |plan: Plan<'_>| {
            tokio::select! {
                started = timed(self.start_vm(pod, plan)) => started,
                () = caller.gone() => Err(Caller::cancelled()),
            }
        };
        let Some(network) = &self.network else {
            let none = Timed { it: None, took: Duration::ZERO };
            return Ok((none, vm(Plan { nets: &[], ..plan }).await?));
        };
        let queues = plan.defaults.net_queues;
        let begun = timed(step("namespace", async { Ok(network.begin(request, queues).await?) })).await?;
        let taps =
            begun.it.copy_taps().map_err(|e| Error::io("copy the taps of", &self.pod_dir(&pod.id), e))?;
        let nets = guest_nets(taps, queues);
        // It is not dropped half-way: a plugin that is ended leaves what its DEL does not take.
        let mut setup = pin!(timed(step("network", async { Ok(Some(network.finish(begun.it).await?)) })));
        let mut started = pin!(vm(Plan { nets: &nets, ..plan }));
        let (mut setup, started) = tokio::select! {
            done = &mut setup => (done?, started.await?),
            done = &mut started => {
                let setup = setup.await;
                (setup?, done?)
            }
        };
        setup.took += begun.took;
        let interfaces = setup.it.iter_mut().flat_map(|setup| &mut setup.interfaces);
        let taps: Vec<_> = interfaces.map(|interface| std::mem::take(&mut interface.taps)).collect();
        if taps.len() == nets.len() {
            return Ok((setup, started));
        }
        // It was started with as many as the last pod had.
        started.it.vm.process.kill().await;
        let nets = guest_nets(taps, queues);
        Ok((setup, vm(Plan { nets: &nets, ..plan }).await?))
    }

    /// Starts a pod's VM. A template that gives no clone is thrown away, and the VM boots.
    async fn start_vm(&self, pod: &Arc<Pod>, plan: Plan<'_>) -> Result<Started> {
        let Plan { defaults, size, room, nets } = plan;
        let class = Class {
            trust: trust(&pod.record(), defaults.template_scope),
            max_vcpus: room.max_vcpus,
            boot_mib: size.boot_mib(),
            hotplug_mib: room.hotplug(size).limit_mib,
            block_slots: defaults.block_slots,
            nets: nets.len(),
            net_queues: defaults.net_queues,
        };
        let trace = Trace::begin();
        if let Some(template) = self.templates.find(&class, defaults) {
            match step("clone", self.clone_vm(pod, plan, template.clone())).await {
                Ok((vm, guest)) => {
                    self.templates.trust(&template);
                    trace.tell(&pod.id, &vm, None);
                    return Ok(Started { vm, guest, template: Some(template), class });
                }
                Err(e) => {
                    tracing::warn!(sandbox = pod.id, "the pod's VM boots, its template is of no use: {e}");
                    self.templates.discard(&template);
                }
            }
        }
        let (vm, word, guest) = step("boot", async {
            let vm = self.launch(pod, plan, None)?;
            let word = vm.ready(defaults).await?;
            let guest = guest::connect(&vm.vsock()).await?;
            Ok((vm, word, guest))
        })
        .await?;
        trace.tell(&pod.id, &vm, word);
        Ok(Started { vm, guest, template: None, class })
    }

    async fn clone_vm(
        &self,
        pod: &Arc<Pod>,
        plan: Plan<'_>,
        template: RestoreConfig,
    ) -> Result<(Arc<Vm>, Guest)> {
        let vm = self.launch(pod, plan, Some(template))?;
        let socket = vm.vsock();
        // Its agent listens since before it was saved: there is no word to wait for.
        let answer = async {
            loop {
                match guest::connect(&socket).await {
                    Ok(guest) => return guest,
                    Err(_) => tokio::time::sleep(KNOCK_AGAIN).await,
                }
            }
        };
        let outcome = tokio::select! {
            guest = answer => return Ok((vm, guest)),
            () = vm.process.gone() => Error::Internal("the VMM ended".into()),
            () = tokio::time::sleep(CLONE_LIMIT) => {
                Error::Deadline(format!("the guest did not answer within {} s", CLONE_LIMIT.as_secs()))
            }
        };
        vm.process.kill().await;
        Err(Error::Internal(format!("{outcome}; {}", last_words(&self.pod_dir(&pod.id)))))
    }

    /// Starts the VMM, and writes down which it is.
    fn launch(&self, pod: &Arc<Pod>, plan: Plan<'_>, restore: Option<RestoreConfig>) -> Result<Arc<Vm>> {
        let Plan { defaults, size, room, nets } = plan;
        let dir = self.pod_dir(&pod.id);
        let spec = VmSpec {
            id: &pod.id,
            dir: &dir,
            uid: pod.record().uid,
            network: self.network.as_ref().map(|network| network.open_namespace(&pod.id)).transpose()?,
            vcpus: size.vcpus,
            max_vcpus: room.max_vcpus,
            boot_mib: size.boot_mib(),
            hotplug: room.hotplug(size),
            nets,
            door: self.cgroups.door(&dir)?,
            restore,
            savable: false,
        };
        let vm = Arc::new(Vm::start(defaults, spec)?);
        reach(format_args!("started a sandbox's VMM"));
        *lock(&pod.vm) = Some(vm.clone());
        self.update_pod(pod, |record| {
            record.vmm_pid = vm.process.pid;
            record.vmm_started = vm.process.started;
        })?;
        Ok(vm)
    }
}

/// Interfaces over these taps. Whatever the guest is to see of them it is told when it is up.
fn guest_nets(taps: Vec<Vec<OwnedFd>>, queues: u8) -> Vec<VmNet> {
    taps.into_iter().enumerate().map(|(number, taps)| VmNet::new(number, taps, queues)).collect()
}

/// Whom a pod's template may serve beside it.
fn trust(record: &SandboxRecord, scope: TemplateScope) -> Trust {
    let metadata = record.config.as_ref().and_then(|config| config.metadata.as_ref());
    let handler = if record.runtime_handler.is_empty() { HANDLER } else { &record.runtime_handler };
    Trust {
        handler: handler.to_owned(),
        namespace: match scope {
            TemplateScope::Handler => None,
            TemplateScope::Namespace => Some(metadata.map(|of| of.namespace.clone()).unwrap_or_default()),
        },
    }
}
