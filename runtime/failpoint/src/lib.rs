//! Points between the steps of an operation, at which a test can end the process as `kill -9` does: it then shows that
//! nothing is lost, and that what was half done is undone or finished.
//!
//! They do nothing unless the environment variable [`VARIABLE`] was set when the process started:
//!
//! - `trace FILE`: appends the name of each point that is come by to the file, one a line. It is opened at the first: what
//!   comes later may be in another mount namespace.
//! - `kill NAME`: ends the process at the point of that name, when it first comes there.
//!
//! A test first traces an operation, and then does it again and again with a kill at each of the points that it has
//! come by: a point that is added is tested from then on.
#![forbid(unsafe_code)]

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::LazyLock;

use rustix::process::{Signal, getpid, kill_process};

/// The environment variable that turns the points on.
pub const VARIABLE: &str = "HUSK_FAILPOINT";

enum Plan {
    Trace(Option<File>),
    Kill(String),
}

static PLAN: LazyLock<Option<Plan>> =
    LazyLock::new(|| std::env::var(VARIABLE).ok().as_deref().and_then(Plan::parse));

impl Plan {
    fn parse(text: &str) -> Option<Plan> {
        match text.split_once(' ')? {
            // A test that finds nothing fails.
            ("trace", file) => {
                Some(Plan::Trace(OpenOptions::new().create(true).append(true).open(file).ok()))
            }
            ("kill", name) => Some(Plan::Kill(name.into())),
            _ => None,
        }
    }
}

/// The process comes by the point of that name, "what it has just done".
pub fn reach(name: Arguments<'_>) {
    match &*PLAN {
        None => {}
        Some(Plan::Trace(file)) => {
            // One write a line: threads do not mix theirs.
            let line = format!("{name}\n");
            let _ = file.as_ref().map(|mut file| file.write_all(line.as_bytes()));
        }
        Some(Plan::Kill(wanted)) if name.to_string() == *wanted => {
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal takes effect before anything else is done.
            loop {
                std::thread::park();
            }
        }
        Some(Plan::Kill(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_told_by_their_first_word() {
        assert!(matches!(Plan::parse("trace /nowhere/a b"), Some(Plan::Trace(None))));
        assert!(matches!(Plan::parse("kill a point"), Some(Plan::Kill(name)) if name == "a point"));
        for text in ["", "kill", "panic here", "killing a point"] {
            assert!(Plan::parse(text).is_none(), "{text}");
        }
    }
}
