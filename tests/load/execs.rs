//! Commands at once.

use futures_util::future::join_all;
use husk_tests::{Bed, Container, Pod, step};

use crate::calls::Calls;
use crate::life;

/// The pods that they are divided among.
const PODS: usize = 4;

/// The same number of commands one after the other, and all of them at once.
pub async fn run(bed: &Bed, commands: usize) -> String {
    let calls = Calls::default();
    let mut running: Vec<(Pod, Container)> = Vec::new();
    for _ in 0..PODS {
        running.push(life::begin(bed, &calls, "idle", "sleep 36000").await);
    }
    step("one after the other");
    for number in 0..commands {
        life::exec(&running[number % PODS].1, &calls, "alone").await;
    }
    step("all at once");
    join_all((0..commands).map(|number| life::exec(&running[number % PODS].1, &calls, "at once"))).await;
    for (pod, _) in &running {
        life::end(pod, &calls, "idle").await;
    }
    calls.table(&format!("{commands} commands at once, in {PODS} pods"))
}
