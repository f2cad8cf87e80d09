//! Agents that do not answer any more.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent;

use crate::guest::{self, Guest};
use crate::node::{Node, Pod};
use crate::vm::{End, Vm};

/// How long the record of an end may take before the end.
const MOMENT: Duration = Duration::from_secs(1);

impl Node {
    /// Asks a pod's agent again and again whether it is there, and ends the VM of one that does not answer in time: a
    /// guest whose agent hangs cannot be worked with, and nobody would know.
    pub(super) fn watch_agent(self: &Arc<Self>, pod: Arc<Pod>, vm: Arc<Vm>, guest: Guest) {
        let handler = pod.record().runtime_handler;
        let seconds = self.config.handler_of_pod(&handler).agent_timeout_secs;
        if seconds == 0 {
            return;
        }
        let node = self.clone();
        tokio::spawn(async move {
            let limit = Duration::from_secs(seconds);
            loop {
                tokio::select! {
                    () = vm.process.gone() => return,
                    () = tokio::time::sleep(limit / 2) => {}
                }
                let asked = answers(guest.clone());
                let answered = tokio::select! {
                    () = vm.process.gone() => return,
                    answered = tokio::time::timeout(limit, asked) => answered,
                };
                if answered.is_err() {
                    break;
                }
            }
            let end = End::Silent(seconds);
            node.metrics.vm_ended(end.label());
            let why = end.describe(vm.process.pid);
            tracing::warn!(sandbox = pod.id, "{why}");
            let mut recorded = std::pin::pin!(node.lost(&pod, &why));
            // Why, before that it has ended; but it ends, whatever becomes of the record.
            let in_time = tokio::time::timeout(MOMENT, &mut recorded).await;
            vm.process.kill().await;
            if in_time.is_err() {
                recorded.await;
            }
        });
    }
}

/// Returns when the agent has answered, with an error or without. One whose connection is broken is tried again: it is
/// for the limit to say that it does not come back.
async fn answers(mut guest: Guest) {
    const AGAIN: Duration = Duration::from_millis(200);
    loop {
        match guest.list_containers(guest::request(agent::ListContainersRequest {})).await {
            Err(status)
                if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded) =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            _ => return,
        }
    }
}
