//! What an idle pod costs its host.

use std::time::Duration;

use husk_tests::{Bed, Process, container, pod, step};

/// How long an idle pod is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// A text with the VMM's memory apart from the guest's, and the processor time that an idle pod takes.
pub async fn report(bed: &Bed) -> String {
    step("an idle pod");
    let pod = bed.pod(pod("idle")).await;
    pod.start(container("idle", "sleep 3600")).await;
    let vmm = Process(pod.vmm().await);
    let daemon = Process(i32::try_from(bed.daemon.pid()).expect("a process id"));
    // Past the guest's own settling after its boot.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = (vmm.cpu(), daemon.cpu());
    tokio::time::sleep(WATCHED).await;
    let after = (vmm.cpu(), daemon.cpu());
    let (own, guest) = vmm.monitor_memory();
    pod.stop().await;
    pod.remove().await;
    let per_second = |spent: Duration| spent.as_secs_f64() * 1000.0 / WATCHED.as_secs_f64();
    format!(
        "an idle pod with one container\n\
         VMM without guest memory   {:>7.1} MB RSS {:>7.1} MB PSS\n\
         guest memory, touched      {:>7.1} MB RSS\n\
         CPU of the VMM             {:>7.2} ms a second\n\
         CPU of the daemon          {:>7.2} ms a second",
        own.rss as f64 / 1024.0,
        own.pss as f64 / 1024.0,
        guest.rss as f64 / 1024.0,
        per_second(after.0 - before.0),
        per_second(after.1 - before.1),
    )
}
