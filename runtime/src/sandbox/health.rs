//! Agents that do not answer any more.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent;

use crate::guest::{self, Guest};
use crate::node::{Node, Pod};
use crate::vm::{End, Vm, Waits};

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
                    answered = in_time(limit, asked, || Waits::of(vm.process.pid)) => answered,
                };
                if !answered {
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

/// Whether the answer comes within `limit`. Time for which the host has had no CPU for a thread of the VM's, as `waits`
/// tells, does not count: on a host with too much to do guests are slow, and none of them hangs.
async fn in_time(limit: Duration, asked: impl Future<Output = ()>, waits: impl Fn() -> Waits) -> bool {
    let mut asked = pin!(asked);
    // Less than this is not worth a look. Most answer sooner.
    let moment = limit / 16;
    if tokio::time::timeout(moment, &mut asked).await.is_ok() {
        return true;
    }
    let mut left = limit - moment;
    while left > moment {
        let before = waits();
        if tokio::time::timeout(left, &mut asked).await.is_ok() {
            return true;
        }
        left = waits().since(&before).min(left);
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::{pending, poll_fn};
    use std::task::Poll;

    const LIMIT: Duration = Duration::from_millis(10);

    /// How often was looked for a VM that never answers, and waits for a CPU for so many percent of the time.
    async fn looks(percent: u32) -> u32 {
        let (looks, waited) = (Cell::new(0i32), Cell::new(Duration::ZERO));
        let waits = || {
            looks.set(looks.get() + 1);
            // Each second look ends a wait, the first of which took the whole limit.
            if looks.get() % 2 == 0 {
                let share = f64::from(percent) / 100.0;
                waited.set(waited.get() + LIMIT.mul_f64(share.powi(looks.get() / 2)));
            }
            Waits::of_one(waited.get())
        };
        assert!(!in_time(LIMIT, pending(), waits).await);
        looks.get() as u32
    }

    #[tokio::test]
    async fn time_without_a_cpu_does_not_count() {
        assert_eq!(looks(0).await, 2);
        assert_eq!(looks(50).await, 8);
        // One that had no CPU at all may answer whenever it has one.
        let looks = Cell::new(0);
        let waits = || {
            looks.set(looks.get() + 1);
            Waits::of_one(LIMIT * looks.get())
        };
        let answer = poll_fn(|_| if looks.get() < 99 { Poll::Pending } else { Poll::Ready(()) });
        assert!(in_time(LIMIT, answer, waits).await);
    }
}
