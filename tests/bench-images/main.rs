//! `husk-bench-images [ROUNDS]`: pulling and preparing images with husk and with its peers, from Debian's
//! docker-registry on loopback. It runs as root on this machine itself, once `tests/images/bench` has made the
//! images. Every round gives each tool an empty store of its own; figures are medians of the rounds.
#![forbid(unsafe_code)]

mod case;
mod measure;
mod report;
mod tools;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use husk_tests::{Registry, step};

use case::Case;
use measure::Cost;
use tools::Tool;

const ROUNDS: usize = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = match &args[..] {
        // What the benchmark starts as husk's own process.
        [command, store, references @ ..] if command == tools::HUSK_PULL => {
            return tools::husk_pull(Path::new(store), references);
        }
        [] => ROUNDS,
        [rounds] if rounds.parse::<usize>().is_ok_and(|rounds| rounds > 0) => {
            rounds.parse().unwrap_or(ROUNDS)
        }
        _ => {
            eprintln!("usage: husk-bench-images [ROUNDS]");
            return ExitCode::from(2);
        }
    };
    let user = fs::metadata("/proc/self").expect("look at this process").uid();
    assert_eq!(user, 0, "the peers unpack owners and mount overlays: run this as root");
    bench(rounds);
    ExitCode::SUCCESS
}

fn bench(rounds: usize) {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-images");
    assert!(images.join("index.json").is_file(), "there are no images: run tests/images/bench");
    // On the disk and not in a tmpfs, where all of it would be memory.
    let dir =
        tempfile::Builder::new().prefix("husk-bench.").tempdir_in("/var/tmp").expect("make a directory");
    let registry = Registry::start(dir.path());
    let cases = Case::all(&images, &registry, dir.path());
    let mut tools = tools::all();
    for case in &cases {
        let mut results: Vec<(Tool, Vec<Cost>)> = tools.iter().map(|tool| (*tool, Vec::new())).collect();
        let mut floors = Vec::new();
        for round in 1..=rounds {
            step(format!("{}: round {round} of {rounds}: zcat | sha256sum", case.name));
            floors.push(case.floor());
            for (tool, costs) in &mut results {
                if !tools.contains(tool) {
                    continue;
                }
                step(format!("{}: round {round} of {rounds}: {}", case.name, tool.name()));
                match tool.pull(case, dir.path()) {
                    Ok(cost) => costs.push(cost),
                    Err(reason) => {
                        println!("{} is skipped: {reason}", tool.name());
                        tools.retain(|other| other != tool);
                    }
                }
            }
        }
        println!("\n{}", report::table(case, &floors, &results));
    }
}
