//! What is measured, what it is compared with, and how good it is meant to be.

use crate::figures::Figures;

/// How good a figure is meant to be.
#[derive(Clone, Copy)]
enum Goal {
    /// Ours over the peer's.
    RatioAtMost(f64),
    /// The same, where more is better.
    RatioAtLeast(f64),
    /// The figure itself.
    AtMost(f64),
    /// It is only told.
    None,
}

struct Row {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    peer: &'static str,
    goal: Goal,
}

const fn row(
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    peer: &'static str,
    goal: Goal,
) -> Row {
    Row { name, what, unit, peer, goal }
}

const QEMU: &str = "QEMU microvm";
const LOOP: &str = "C loop";
const CONTAINERD: &str = "containerd, runc";

const ROWS: &[Row] = &[
    row("boot", "boot to agent ready", "ms", QEMU, Goal::RatioAtMost(0.6)),
    row("clone", "clone to agent ready", "ms", "own boot", Goal::RatioAtMost(0.1)),
    row("run", "RunPodSandbox by clone, with CNI", "ms", CONTAINERD, Goal::RatioAtMost(1.0)),
    row("own-memory", "VMM's memory beside the guest's, RSS", "MiB", "-", Goal::AtMost(3.0)),
    row("clone-memory", "20th idle clone of 128 MiB, PSS", "MiB", "-", Goal::AtMost(12.0)),
    row("read4k", "block read, 4 KiB at random", "MiB/s", QEMU, Goal::RatioAtLeast(1.0)),
    row("read1m", "block read, 1 MiB in sequence", "MiB/s", QEMU, Goal::RatioAtLeast(1.0)),
    row("net", "net stream out of the guest", "MiB/s", QEMU, Goal::RatioAtLeast(1.0)),
    row("net-frames", "net frames of 64 KiB, ring 3", "MiB/s", QEMU, Goal::RatioAtLeast(1.0)),
    row("vsock", "vsock stream out of the guest", "MiB/s", "QEMU, vhost", Goal::RatioAtLeast(1.0)),
    row("idle", "idle VM, host's CPU", "ms/s", "QEMU, idle", Goal::RatioAtMost(0.5)),
    row("idle-same", "  the agent's guest in both", "ms/s", QEMU, Goal::None),
    row("pio", "exit dispatch, port read", "cycles", LOOP, Goal::RatioAtMost(1.1)),
    row("mmio", "exit dispatch, register read", "cycles", LOOP, Goal::RatioAtMost(1.1)),
    row("ioeventfd", "exit dispatch, queue's notification", "cycles", LOOP, Goal::RatioAtMost(1.1)),
    row("pio-qemu", "  port read", "cycles", QEMU, Goal::None),
    row("mmio-qemu", "  register read", "cycles", QEMU, Goal::None),
    row("ioeventfd-qemu", "  queue's notification", "cycles", QEMU, Goal::None),
    row("first", "exec to the guest's first instruction", "ms", QEMU, Goal::RatioAtMost(0.4)),
    row("life-cpu", "CPU of daemon and VMM in a pod's life", "ms", CONTAINERD, Goal::RatioAtMost(0.5)),
];

/// The monitor's own steps of any start, in their order.
const MONITOR: &[&str] = &[
    "started",
    "confined",
    "guest loaded",
    "returns made plain",
    "devices made",
    "state in place",
    "guest entered",
];

/// The starts, and the guest's steps that follow.
const STARTS: &[(&str, &[&str])] = &[
    ("ring 3: ", &[]),
    (
        "boot: ",
        &["before its clock, and the word's way", "kernel until its first process", "agent until it listens"],
    ),
    ("clone: ", &["guest until its agent answers"]),
];

/// Prints a row for each measure that has been taken.
pub fn print(figures: &Figures, rounds: usize) {
    println!("\nmedians of {rounds} rounds");
    println!(
        "{:<40}{:>8}{:>12}{:>12}  {:<18}{:>7}  {:<10}met",
        "", "unit", "husk", "peer", "which", "ratio", "goal"
    );
    for Row { name, what, unit, peer, goal } in ROWS {
        let [ours, peers] = figures.medians(name);
        if ours.is_none() && peers.is_none() {
            continue;
        }
        let ratio = ours.zip(peers).filter(|(_, peers)| *peers > 0.0).map(|(ours, peers)| ours / peers);
        let (bound, met) = match *goal {
            Goal::RatioAtMost(most) => (format!("<= {most}"), ratio.map(|ratio| ratio <= most)),
            Goal::RatioAtLeast(least) => (format!(">= {least}"), ratio.map(|ratio| ratio >= least)),
            Goal::AtMost(most) => (format!("{most} {unit}"), ours.map(|ours| ours <= most)),
            Goal::None => ("-".to_owned(), None),
        };
        println!(
            "{what:<40}{unit:>8}{:>12}{:>12}  {peer:<18}{:>7}  {bound:<10}{}",
            number(ours),
            number(peers),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            met.map_or("-", |met| if met { "yes" } else { "no" }),
        );
    }
}

/// Prints where the time of boots and clones goes.
pub fn print_steps(figures: &Figures) {
    println!("\nsteps of a start, ms");
    for (start, of_guest) in STARTS {
        for step in MONITOR.iter().chain(*of_guest) {
            let name = format!("{start}{step}");
            if let [Some(took), _] = figures.medians(&name) {
                println!("{name:<48}{took:>10.1}");
            }
        }
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}
