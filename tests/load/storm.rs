//! Pods that come and go, several at a time.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::future::join_all;
use husk_tests::{Bed, step};

use crate::calls::Calls;
use crate::gauge::Gauge;
use crate::life;

/// Pods at a time.
const AT_A_TIME: usize = 8;

/// So many whole lives.
pub async fn run(bed: &Bed, pods: usize) -> String {
    let calls = Calls::default();
    let before = Gauge::read(bed);
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let workers = (0..AT_A_TIME).map(|_| async {
        while begun.fetch_add(1, Relaxed) < pods {
            life::whole(bed, &calls, "storm").await;
            let done = done.fetch_add(1, Relaxed) + 1;
            if done.is_multiple_of(10) {
                step(format!("{done} pods have come and gone"));
            }
        }
    });
    join_all(workers).await;
    bed.check_clean().expect("nothing is left");
    let after = Gauge::read(bed);
    calls.table(&format!("{pods} pods come and go, {AT_A_TIME} at a time"))
        + &format!(
            "{:<8}{}\n{:<8}{}\n{:<8}{}\n",
            "",
            Gauge::head(),
            "before",
            before.row(),
            "after",
            after.row()
        )
}
