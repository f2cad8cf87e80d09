//! The agent in a real guest: boots it as PID 1 under QEMU with KVM and drives every call of its protocol over
//! vsock. It needs /dev/kvm, /dev/vhost-vsock, the guest's kernel (`guest-kernel/build`) and erofs-utils:
//!
//!     CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/testbed/run \
//!         cargo test --release -p husk-agent --test guest [-- WORD]
//!
//! With a word only the cases whose names contain it are run.

mod container;
mod exec;
mod hostile;
mod limits;
mod output;
mod pod;
mod ports;
mod sandbox;
mod vm;
mod volumes;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::pod::Pod;
use crate::vm::Guest;

/// The longest that one case may take.
const PATIENCE: Duration = Duration::from_secs(90);

type Case = (&'static str, for<'a> fn(&'a Pod) -> Pin<Box<dyn Future<Output = ()> + 'a>>);

macro_rules! cases {
    ($($module:ident: $($name:ident),+;)+) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), |pod| Box::pin($module::$name(pod)))),+),+]
    };
}

/// In this order: the sandbox is configured once in a guest's life.
const CASES: &[Case] = cases! {
    sandbox: version, nothing_before_the_configuration, wrong_configurations, configuration;
    container: hello, what_a_container_sees, users, working_directory, read_only_root, shared_image,
        missing_command, not_executable, two_on_localhost, lists, terminal, signals;
    exec: runs_in_the_container, terminal, standard_input, signals, missing_command, left_behind, many;
    output: whole, goes_on_after_a_break, back_pressure, one_reader;
    ports: both_ways, nobody_listens;
    volumes: images, memory, devices, wrong_requests;
    limits: memory, figures, processes, devices, capabilities;
    hostile: ids, specs, unknown, states, sizes, links_in_the_image, dead_container, deep_tree;
};

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let passes = || {
        let run = AssertUnwindSafe(|| runtime.block_on(a_guests_life(&word)));
        std::panic::catch_unwind(run).unwrap_or(false)
    };
    // Emulated KVM loses a guest now and then; on real KVM there is one chance.
    let emulated = std::env::var_os("HUSK_TESTBED_EMULATED").is_some();
    if passes() || (emulated && passes()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the cases in a guest of their own; whether all passed.
async fn a_guests_life(word: &str) -> bool {
    let mut guest = Guest::boot().await;
    println!("ready {} ms after QEMU's start", guest.boot_time.as_millis());
    let pod = Pod::connect(&guest).await;
    let mut failed = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(word) || name.starts_with("sandbox")) {
        let begun = Instant::now();
        let run = AssertUnwindSafe(tokio::time::timeout(PATIENCE, case(&pod))).catch_unwind().await;
        let verdict = match run {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "FAILED: no end",
            Err(_) => "FAILED",
        };
        failed += usize::from(verdict != "ok");
        println!("{name}: {verdict} ({} ms)", begun.elapsed().as_millis());
    }
    let off = guest.shut_down(&pod).await;
    println!("shutdown: {}", if off { "ok" } else { "FAILED" });
    let console = guest.console();
    let panicked = console.contains("panicked");
    println!("{failed} cases failed; the guest's console:\n{console}");
    failed == 0 && off && !panicked
}
