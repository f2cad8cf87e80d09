//! Pods that run at once, and what one more of them costs when there are many.

use husk_tests::{Bed, step};

use crate::calls::Calls;
use crate::gauge::Gauge;
use crate::life;

/// How many pods make a phase.
const PHASE: usize = 10;

/// The phases' names, in their order.
const PHASES: [&str; 6] = ["1 to 10", "11 to 20", "21 to 30", "31 to 40", "41 to 50", "51 and more"];

/// Starts pods one after the other, looks at all of them, and removes them.
pub async fn run(bed: &Bed, pods: usize) -> String {
    let calls = Calls::default();
    let before = Gauge::read(bed);
    let mut running = Vec::new();
    for number in 0..pods {
        let phase = PHASES[(number / PHASE).min(PHASES.len() - 1)];
        let (pod, container) = life::begin(bed, &calls, phase, "sleep 36000").await;
        life::exec(&container, &calls, phase).await;
        running.push((pod, container));
        let listed = calls.timed(phase, "ListPodSandbox", bed.client.pods(Default::default())).await;
        assert_eq!(listed.len(), running.len());
        calls.timed(phase, "PodSandboxStatus", running[0].0.status()).await;
        let stats = calls.timed(phase, "ListPodSandboxStats", bed.client.pod_stats()).await;
        assert_eq!(stats.len(), running.len());
        if (number + 1).is_multiple_of(5) {
            step(format!("{} pods run", number + 1));
        }
    }
    let full = Gauge::read(bed);
    step("every one of them answers");
    for (_, container) in &running {
        life::exec(container, &calls, "all run").await;
    }
    step("they are removed");
    for (pod, _) in &running {
        life::end(pod, &calls, "all run").await;
    }
    let after = Gauge::read(bed);
    let each = before.available.saturating_sub(full.available) as f64 / 1024.0 / pods as f64;
    calls.table(&format!("{pods} pods of 128 MiB at once"))
        + &format!(
            "memory of the host for each pod: {each:.1} MiB\n{:<16}{}\n{:<16}{}\n{:<16}{}\n{:<16}{}\n",
            "",
            Gauge::head(),
            "before",
            before.row(),
            "all run",
            full.row(),
            "removed",
            after.row(),
        )
}
