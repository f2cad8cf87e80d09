//! `husk-bench-vmm [ROUNDS]`: what the monitor's exits and devices cost, beside QEMU's microvm and beside the least that
//! a monitor can be. The guest has no kernel: it runs in ring 3, so that its figures are those of the host's own KVM
//! even where that emulates ring 0.
#![forbid(unsafe_code)]

mod guest;
mod monitors;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use guest::Figures;
use monitors::{Monitor, Parts};

/// The figures, and what each is compared with.
const ROWS: &[(&str, &str)] = &[
    ("pio", "a port read, exit and answer"),
    ("mmio", "a register read, exit and answer"),
    ("ioeventfd", "a queue's notification"),
    ("read4k", "4 KiB read, at random"),
    ("read1m", "1 MiB read, in sequence"),
];

fn main() -> ExitCode {
    let rounds = match std::env::args().nth(1).map(|text| text.parse()) {
        None => 3,
        Some(Ok(rounds @ 1..=100)) => rounds,
        Some(_) => {
            eprintln!("usage: husk-bench-vmm [ROUNDS], 1 to 100");
            return ExitCode::from(2);
        }
    };
    let parts = Parts::prepare();
    let mut figures: BTreeMap<Monitor, Vec<Figures>> = BTreeMap::new();
    for round in 1..=rounds {
        // One after the other in each round: what disturbs the machine meanwhile disturbs all.
        for monitor in Monitor::ALL {
            let one = monitor.run(&parts);
            println!("round {round} of {rounds}, {monitor}: up after {:.1} ms", one.up_ms);
            figures.entry(monitor).or_default().push(one);
        }
    }
    let of = |monitor: Monitor, part: &dyn Fn(&Figures) -> Option<f64>| -> Option<f64> {
        let mut found: Vec<f64> = figures.get(&monitor)?.iter().filter_map(part).collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 2).copied()
    };
    println!("\nmedians of {rounds} rounds; cycles of the TSC, {}", processor());
    println!(
        "{:<36}{:>12}{:>12}{:>12}{:>14}{:>14}",
        "", "husk-vmm", "QEMU", "floor", "husk / QEMU", "husk / floor"
    );
    let row = |what: &str, part: &dyn Fn(&Figures) -> Option<f64>| {
        let [husk, qemu, floor] = Monitor::ALL.map(|monitor| of(monitor, part));
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let ratio = |other: Option<f64>| match (husk, other) {
            (Some(husk), Some(other)) if other > 0.0 => format!("{:.2}", husk / other),
            _ => "-".to_owned(),
        };
        println!(
            "{what:<36}{:>12}{:>12}{:>12}{:>14}{:>14}",
            number(husk),
            number(qemu),
            number(floor),
            ratio(qemu),
            ratio(floor)
        );
    };
    for (name, what) in ROWS {
        row(what, &|figures| figures.cycles.get(*name).copied());
    }
    row("start to the guest's first line, us", &|figures| Some(figures.up_ms * 1000.0));
    ExitCode::SUCCESS
}

fn processor() -> String {
    let output =
        Command::new("sh").args(["-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "an unknown processor".into())
}
