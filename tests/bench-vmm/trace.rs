//! Where the time of a start goes, step by step.

use std::time::Duration;

use husk_proto::ReadyTimes;
use husk_tests::Vmm;
use husk_vmm::control::{Mark, Reply, Request, monotonic_micros};

/// Milliseconds of each step of a start.
pub type Steps = Vec<(String, f64)>;

/// What the monitor's own clock says.
pub fn now() -> Duration {
    Duration::from_micros(monotonic_micros())
}

/// The steps of a VMM's start.
///
/// # Panics
/// When it does not tell them.
pub fn marks(vmm: &Vmm) -> Vec<Mark> {
    match vmm.request(&Request::Statistics, &[]) {
        Ok(Reply::Statistics(statistics)) => statistics.marks,
        other => panic!("husk-vmm answers {other:?}"),
    }
}

/// Milliseconds of the VMM's steps.
pub fn monitor(begun: Duration, marks: &[Mark]) -> Steps {
    let mut last = begun;
    let steps = marks.iter().map(|Mark { step, micros }| {
        let until = Duration::from_micros(*micros);
        let took = until.saturating_sub(last);
        last = until;
        (step.clone(), took.as_secs_f64() * 1000.0)
    });
    steps.collect()
}

/// Milliseconds of the guest's, from its first instruction to its agent's word, which came at `word`.
pub fn guest(marks: &[Mark], times: ReadyTimes, word: Duration) -> Steps {
    let entered = marks.last().map_or(Duration::ZERO, |mark| Duration::from_micros(mark.micros));
    let all = word.saturating_sub(entered).as_secs_f64() * 1000.0;
    let [kernel, listening] = [times.init, times.listening].map(|micros| micros as f64 / 1000.0);
    vec![
        // The kernel has no clock until it has set one up.
        ("before its clock, and the word's way".to_owned(), all - listening),
        ("kernel until its first process".to_owned(), kernel),
        ("agent until it listens".to_owned(), listening - kernel),
    ]
}
