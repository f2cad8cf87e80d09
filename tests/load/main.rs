//! `husk-load [PART[=AMOUNT]...]`: a node under load, in the test bed (`make load`, `make soak`).
//!
//! Each part says what it does as it goes, prints its figures at its end, and ends the run when something is lost: an
//! acknowledged thing, a line of a log, or a descriptor, process, file, mount or address that stays.
#![forbid(unsafe_code)]

mod calls;
mod density;
mod execs;
mod forwards;
mod gauge;
mod history;
mod life;
mod logs;
mod soak;
mod storm;

use std::process::ExitCode;
use std::sync::Arc;

use husk_tests::{Bed, step};
use tokio::runtime::Runtime;

/// The parts, in the order in which they run, with what their amounts count and what these are when none is given.
const PARTS: [(&str, &str, usize); 7] = [
    ("density", "pods that run at once", 50),
    ("execs", "commands at once", 100),
    ("forwards", "forwarded connections at once", 1000),
    ("logs", "MiB of logs", 64),
    ("history", "containers in the records", 10_000),
    ("storm", "pods that come and go", 500),
    ("soak", "minutes", 10),
];

fn main() -> ExitCode {
    let chosen = match chosen(std::env::args().skip(1)) {
        Ok(chosen) => chosen,
        Err(wrong) => {
            eprintln!("husk-load: {wrong}\nusage: husk-load [PART[=AMOUNT]...]; the parts:");
            for (name, counts, amount) in PARTS {
                eprintln!("  {name:<10}{counts}, {amount}");
            }
            return ExitCode::from(2);
        }
    };
    let runtime = Runtime::new().expect("start the async runtime");
    runtime.block_on(run(&chosen));
    ExitCode::SUCCESS
}

/// The parts and amounts that arguments name: all without any.
fn chosen(arguments: impl Iterator<Item = String>) -> Result<Vec<(&'static str, usize)>, String> {
    let mut amounts = PARTS.map(|(name, _, amount)| (name, None, amount));
    let mut all = true;
    for argument in arguments {
        all = false;
        let (name, amount) = argument.split_once('=').unwrap_or((&argument, ""));
        let part = amounts.iter_mut().find(|(known, ..)| *known == name);
        let part = part.ok_or_else(|| format!("{name:?} is no part"))?;
        part.1 = Some(match amount {
            "" => part.2,
            amount => match amount.parse() {
                Ok(amount) if amount > 0 => amount,
                _ => return Err(format!("{amount:?} is no amount of {name}")),
            },
        });
    }
    let chosen = amounts.into_iter().filter_map(|(name, amount, default)| match amount {
        None if all => Some((name, default)),
        amount => Some((name, amount?)),
    });
    Ok(chosen.collect())
}

async fn run(chosen: &[(&'static str, usize)]) {
    let bed = Arc::new(Bed::start(Some(&["busybox", "layers"])).await);
    let mut tables = Vec::new();
    // The first pod boots, and a template is made of its guest: all later ones are clones.
    life::first(&bed).await;
    for (name, amount) in chosen {
        step(format!("== {name} {amount}"));
        let table = match *name {
            "density" => density::run(&bed, *amount).await,
            "execs" => execs::run(&bed, *amount).await,
            "forwards" => forwards::run(&bed, *amount).await,
            "logs" => logs::run(&bed, *amount).await,
            "history" => history::run(&bed, *amount).await,
            "storm" => storm::run(&bed, *amount).await,
            _ => soak::run(&bed, *amount).await,
        };
        println!("\n{table}");
        bed.check_clean().expect("nothing is left");
        tables.push(table);
    }
    println!("\n{}", tables.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_amounts_are_read() {
        let of = |arguments: &[&str]| chosen(arguments.iter().map(|argument| (*argument).to_owned()));
        assert_eq!(of(&[]).unwrap().len(), PARTS.len());
        assert_eq!(of(&["soak=60", "density"]).unwrap(), [("density", 50), ("soak", 60)]);
        assert!(of(&["soak=0"]).unwrap_err().contains("\"0\""));
        assert!(of(&["rest"]).unwrap_err().contains("\"rest\""));
    }
}
