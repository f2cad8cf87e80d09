//! Many pods, several at a time.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use futures_util::future::join_all;
use husk_tests::{Bed, container, pod, step, wait_for};

use crate::templates::MAKING;

fn descriptors(bed: &Bed) -> usize {
    fs::read_dir(format!("/proc/{}/fd", bed.daemon.pid())).expect("list the daemon's descriptors").count()
}

const AT_A_TIME: usize = 4;
const ROUNDS: usize = 2;

/// Pods, each with a container and its output; the daemon holds no more after the last of them than after the first.
pub async fn four_pods_at_a_time(bed: Arc<Bed>) {
    let mut first = None;
    for round in 1..=ROUNDS {
        step(format!("round {round} of {ROUNDS}"));
        let ips: Vec<String> = join_all((0..AT_A_TIME).map(|_| one(&bed))).await;
        assert_eq!(ips.iter().collect::<HashSet<_>>().len(), AT_A_TIME, "two pods had one address: {ips:?}");
        bed.check_clean().expect("nothing is left");
        let held = descriptors(&bed);
        let first = *first.get_or_insert(held);
        let what = format!("the daemon's open descriptors to be no more than {first}, from {held}");
        // A template may be in the making, whose descriptors are the daemon's too.
        wait_for(&what, MAKING, || async { (descriptors(&bed) <= first + 2).then_some(()) }).await;
    }
}

/// One life; answers its address.
async fn one(bed: &Bed) -> String {
    let pod = bed.pod(pod("churn")).await;
    let ip = pod.ip().await;
    let (_, running) = tokio::join!(
        async {
            let (container, status) = pod.complete(container("prints", "hostname; echo $((6 * 7))")).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
            assert_eq!(container.text(), format!("{}\n42\n", pod.config.hostname));
        },
        pod.start(container("runs", "sleep 3600")),
    );
    assert_eq!(running.exec("echo exec").await, "exec\n");
    pod.stop().await;
    pod.remove().await;
    ip
}
