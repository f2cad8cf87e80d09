//! The half that runs in the test bed: guests with a kernel, and pods.

mod boots;
mod pods;
mod streams;

use std::path::Path;
use std::time::Duration;

use husk_tests::{Bed, step};
use tokio::runtime::Runtime;

use crate::figures::Figures;

/// Memory of VMs, MiB: that of a pod that asks for none.
const MEMORY: u32 = 256;
/// How long a guest may take for what it is waited for.
const LIMIT: Duration = Duration::from_secs(60);
/// The most guests that emulated KVM may lose in a row: one triple-faults or hangs on its way up now and then.
const TRIES: usize = 3;

/// Its parts, in their order.
pub const PARTS: [&str; 4] = ["boots", "idle", "pods", "streams"];
/// The word for all of them.
pub const ALL: &str = "bed";

/// Measures a part, or [`ALL`] of them, and writes what it finds to `file` as it comes.
pub fn measure(part: &str, rounds: usize, file: &Path) {
    let mut figures = Figures::default();
    let runtime = Runtime::new().expect("start the async runtime");
    let bed = runtime.block_on(Bed::start(Some(&["busybox"])));
    for each in PARTS.into_iter().filter(|each| [each, ALL].contains(&part)) {
        match each {
            "boots" => boots::measure(&bed, rounds, &mut figures),
            "idle" => boots::idle(&bed, &mut figures),
            "pods" => runtime.block_on(pods::measure(&bed, rounds, &mut figures)),
            _ => streams::measure(&bed, rounds, &mut figures),
        }
        figures.save(file);
    }
}

/// What an attempt brings, or another one.
fn insist<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..TRIES {
        match attempt() {
            Some(result) => return result,
            None => step(format!("{what}: once more, the guest is lost")),
        }
    }
    panic!("{what}: {TRIES} guests did not come up")
}
