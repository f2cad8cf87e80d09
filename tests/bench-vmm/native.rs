//! The half that runs on this machine as it is: a guest without a kernel, in ring 3, so that its figures are those of
//! the host's own KVM even where that emulates ring 0.

use husk_tests::step;

use crate::figures::Figures;
use crate::guest::Run;
use crate::monitors::{Monitor, Parts};

/// What moves bytes: its name in the guest and in the table, and how many.
const MOVES: [(&str, &str, f64); 3] =
    [("read4k", "read4k", 4096.0), ("read1m", "read1m", 1048576.0), ("frames", "net-frames", 65536.0)];
/// Exits, beside the loop's and beside QEMU's.
const EXITS: [(&str, &str); 3] =
    [("pio", "pio-qemu"), ("mmio", "mmio-qemu"), ("ioeventfd", "ioeventfd-qemu")];

/// One after the other in each round: what disturbs the machine meanwhile disturbs all.
pub fn measure(rounds: usize, figures: &mut Figures) {
    let parts = Parts::prepare();
    let frequency = frequency();
    for round in 1..=rounds {
        for monitor in Monitor::ALL {
            let run = monitor.run(&parts);
            step(format!("ring 3, round {round} of {rounds}, {monitor}: up after {:.1} ms", run.up_ms));
            note(monitor, &run, frequency, figures);
            figures.steps("ring 3", run.steps);
        }
    }
}

fn note(monitor: Monitor, run: &Run, frequency: f64, figures: &mut Figures) {
    for (name, beside_qemu) in EXITS {
        let Some(cycles) = run.cycles.get(name) else { continue };
        match monitor {
            Monitor::Husk => {
                figures.ours(name, *cycles);
                figures.ours(beside_qemu, *cycles);
            }
            Monitor::Qemu => figures.peers(beside_qemu, *cycles),
            Monitor::Floor => figures.peers(name, *cycles),
        }
    }
    // The floor has no disk, and takes no part in what follows.
    let mut add = |name: &str, sample: f64| match monitor {
        Monitor::Husk => figures.ours(name, sample),
        Monitor::Qemu => figures.peers(name, sample),
        Monitor::Floor => {}
    };
    add("first", run.up_ms);
    for (name, row, bytes) in MOVES {
        if let Some(cycles) = run.cycles.get(name) {
            add(row, bytes / (cycles / frequency) / f64::from(1 << 20));
        }
    }
}

/// The TSC's, Hz: the processor's nominal one. It makes MiB/s of cycles, and has no part in any ratio.
fn frequency() -> f64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("read /proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("cpu MHz"));
    let megahertz = line.and_then(|line| line.split_once(':')?.1.trim().parse::<f64>().ok());
    megahertz.expect("/proc/cpuinfo tells the frequency") * 1e6
}
