//! `husk-bench-vmm [native|bed|boots|idle|pods|streams] [ROUNDS]`: how the monitor and pods compare with their peers, as
//! one table with the project's goals. One half runs on this machine as it is, the other one on a host with real KVM, which
//! it starts where this machine is none (tests/testbed/run); the last four are its parts. `make bench-vmm` makes what it
//! needs.
#![forbid(unsafe_code)]

mod bed;
mod figures;
mod guest;
mod monitors;
mod native;
mod table;
mod trace;

use std::path::Path;
use std::process::{Command, ExitCode};

use figures::Figures;

const USAGE: &str = "usage: husk-bench-vmm [native|bed|boots|idle|pods|streams] [ROUNDS], 1 to 100";
const ROUNDS: usize = 5;
/// The half that needs no bed.
const NATIVE: &str = "native";
/// The argument with which this program is the bed's half: `in-bed PART FILE ROUNDS`.
const IN_BED: &str = "in-bed";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [IN_BED, part, file, rounds] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        bed::measure(part, rounds.parse().unwrap_or(ROUNDS), Path::new(file));
        return ExitCode::SUCCESS;
    }
    let known =
        |word: &&String| [NATIVE, bed::ALL].contains(&word.as_str()) || bed::PARTS.contains(&word.as_str());
    let part = arguments.first().filter(known).cloned();
    if part.is_some() {
        arguments.remove(0);
    }
    let rounds = match &arguments[..] {
        [] => Some(ROUNDS),
        [text] => text.parse().ok().filter(|rounds| (1..=100).contains(rounds)),
        _ => None,
    };
    let Some(rounds) = rounds else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut figures = Figures::default();
    if part.as_deref().is_none_or(|part| part == NATIVE) {
        native::measure(rounds, &mut figures);
    }
    if part.as_deref() != Some(NATIVE) {
        match in_bed(part.as_deref().unwrap_or(bed::ALL), rounds) {
            Ok(measured) => figures.merge(measured),
            // What there is is worth printing.
            Err(why) => eprintln!("husk-bench-vmm: {why}"),
        }
    }
    table::print(&figures, rounds);
    table::print_steps(&figures);
    ExitCode::SUCCESS
}

/// The bed's half. The bed writes below the checkout alone.
fn in_bed(part: &str, rounds: usize) -> Result<Figures, String> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is below the checkout");
    let file = checkout.join("target/bench-vmm.json");
    Figures::default().save(&file);
    let own = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
    let status = Command::new(checkout.join("tests/testbed/run"))
        .arg(own)
        .args([IN_BED, part])
        .arg(&file)
        .arg(rounds.to_string())
        .status()
        .map_err(|e| format!("tests/testbed/run: {e}"))?;
    if !status.success() {
        eprintln!("husk-bench-vmm: the test bed's half ended early ({status})");
    }
    Ok(Figures::load(&file))
}
