//! A VM grows and shrinks as its pod's limits do.

use std::sync::Arc;
use std::time::Duration;

use husk_failpoint::reach;
use husk_proto::{agent, cri};

use super::size::{Claim, Room, Size};
use crate::error::{Error, Result};
use crate::guest::{self, Guest};
use crate::node::{Live, Node, Pod};
use crate::store::Phase;

/// How long a guest may take to take memory that it is given.
const GROWTH_LIMIT: Duration = Duration::from_secs(30);

/// Whether limits beyond what a VM can have are refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// They are.
    Refused,
    /// They are as good as what it can have: a limit is no promise.
    Capped,
}

impl Node {
    fn wanted(&self, pod: &Pod, instead: Option<(&str, &cri::LinuxContainerResources)>) -> Size {
        let record = pod.record();
        self.wanted_by(pod, &record.config.unwrap_or_default(), record.limits_set, instead)
    }

    /// What a pod's VM is to be by its configuration and its containers' limits, of which `instead` takes the place of
    /// one's.
    pub(super) fn wanted_by(
        &self,
        pod: &Pod,
        config: &cri::PodSandboxConfig,
        limits_set: bool,
        instead: Option<(&str, &cri::LinuxContainerResources)>,
    ) -> Size {
        let claims: Vec<Claim> = self
            .containers_of(&pod.id)
            .iter()
            .filter(|container| {
                matches!(container.record().phase(), Phase::Creating | Phase::Created | Phase::Running)
            })
            .map(|container| {
                let instead = instead.filter(|(id, _)| *id == container.id).map(|(_, limits)| limits);
                Claim::of(&container.record(), instead)
            })
            .collect();
        let defaults = self.config.handler_of_pod(&pod.record().runtime_handler);
        Size::of(config, limits_set, &claims, defaults)
    }

    /// Lets a pod's VM grow to what its limits will be; it never shrinks here.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when it cannot be as large, [`Error::Unavailable`] when the guest does not take what it is
    /// given: its size is as before then.
    pub async fn make_room(
        &self,
        pod: &Pod,
        live: &Live,
        instead: Option<(&str, &cri::LinuxContainerResources)>,
        beyond: Beyond,
    ) -> Result<()> {
        self.grow(pod, live, self.wanted(pod, instead), beyond).await
    }

    /// As [`Self::make_room`], to a size that is known.
    pub(super) async fn grow(&self, pod: &Pod, live: &Live, wanted: Size, beyond: Beyond) -> Result<()> {
        let mut size = live.size.lock().await;
        let record = pod.record();
        let defaults = self.config.handler_of_pod(&record.runtime_handler);
        let room = Room::given(&record, defaults);
        if beyond == Beyond::Refused {
            room.check(wanted, self.wanted(pod, None))?;
        }
        let have = size.unwrap_or_else(|| Size::given(&record, defaults));
        let target = have.or_more(room.cap(wanted));
        self.resize(pod, live, &mut size, have, target).await
    }

    /// Makes a pod's VM as large as its limits are now: what was let go of goes back to the host as soon as the guest can
    /// spare it. What cannot be is logged.
    pub async fn fit(&self, pod: &Pod, live: &Live) {
        let mut size = live.size.lock().await;
        let record = pod.record();
        let defaults = self.config.handler_of_pod(&record.runtime_handler);
        let have = size.unwrap_or_else(|| Size::given(&record, defaults));
        let target = Room::given(&record, defaults).cap(self.wanted(pod, None));
        if let Err(error) = self.resize(pod, live, &mut size, have, target).await {
            tracing::warn!(sandbox = pod.id, "the pod's VM cannot be as large as its limits: {error}");
        }
    }

    /// Finishes, in the background, what an earlier daemon had begun of a change of a pod's or its containers' limits.
    pub(super) fn settle_resources(self: &Arc<Self>, pod: &Arc<Pod>) {
        let containers = self.containers_of(&pod.id);
        let unsure: Vec<_> =
            containers.into_iter().filter(|container| container.record().limits_changing).collect();
        if unsure.is_empty() && !pod.record().resizing {
            return;
        }
        let (node, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            for container in unsure {
                let _changing = container.changing.lock().await;
                node.settle_limits(&container).await;
            }
            if let Ok(live) = pod.live().await {
                node.fit(&pod, &live).await;
            }
        });
    }

    async fn resize(
        &self,
        pod: &Pod,
        live: &Live,
        size: &mut Option<Size>,
        have: Size,
        target: Size,
    ) -> Result<()> {
        if *size == Some(target) {
            return Ok(());
        }
        self.update_pod(pod, |record| record.resizing = true)?;
        reach(format_args!("recorded that a VM's size changes"));
        let known = size.take().is_some();
        let (grows, shrinks) = (target.memory_mib > have.memory_mib, target.memory_mib < have.memory_mib);
        // What is not known is asked for as well, but for what goes down in any case.
        if grows || !known && !shrinks {
            let got = live.vm.resize(target.memory_mib, GROWTH_LIMIT).await?;
            reach(format_args!("gave a VM memory"));
            if got < target.memory_mib {
                live.vm.resize(have.memory_mib, Duration::ZERO).await?;
                return Err(Error::Unavailable(format!(
                    "the pod's guest took {got} MiB of {} MiB of memory within {} s",
                    target.memory_mib,
                    GROWTH_LIMIT.as_secs()
                )));
            }
        }
        make_use(live.guest.clone(), target).await?;
        reach(format_args!("had a guest use what it has"));
        if shrinks {
            live.vm.resize(target.memory_mib, Duration::ZERO).await?;
            reach(format_args!("took memory from a VM"));
        }
        self.update_pod(pod, |record| {
            record.vcpus = target.vcpus.into();
            record.memory_mib = target.memory_mib;
            record.resizing = false;
        })?;
        reach(format_args!("recorded a VM's size"));
        *size = Some(target);
        tracing::info!(
            sandbox = pod.id,
            memory_mib = target.memory_mib,
            vcpus = target.vcpus,
            "the pod's VM was resized"
        );
        Ok(())
    }
}

/// Has the guest use what its VM has been given.
pub(super) async fn make_use(mut guest: Guest, size: Size) -> Result<()> {
    let Size { vcpus, memory_mib, huge_mib } = size;
    let request = agent::ResizeRequest { cpus: vcpus.into(), memory_mib, huge_mib };
    let answer = guest::call(guest.resize(guest::request(request))).await;
    let answer = answer.map_err(|status| guest::refusal("the guest could not be resized", status))?;
    if answer.cpus < vcpus.into() || answer.memory_mib < memory_mib || answer.huge_mib < huge_mib {
        return Err(Error::Unavailable(format!(
            "the pod's guest uses {} CPUs of {vcpus}, {} MiB of {memory_mib} MiB of memory and {} MiB of {huge_mib} MiB of \
             huge pages",
            answer.cpus, answer.memory_mib, answer.huge_mib
        )));
    }
    Ok(())
}
