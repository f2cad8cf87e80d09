//! What the guest prints.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::trace::Steps;

/// How long a guest may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What one run tells.
#[derive(Debug, Default)]
pub struct Run {
    /// From the monitor's start to the guest's first line, ms.
    pub up_ms: f64,
    /// Cycles of an operation, by its name.
    pub cycles: BTreeMap<String, f64>,
    /// The steps of the monitor's start, if it tells them.
    pub steps: Steps,
}

/// Reads what the guest has printed so far again and again, until it is done.
///
/// # Panics
/// When it takes too long, or says what is no figure.
pub fn follow(begun: Instant, mut printed: impl FnMut() -> String) -> Run {
    let mut up_ms = None;
    loop {
        let text = printed();
        if up_ms.is_none() && text.contains("up\n") {
            up_ms = Some(begun.elapsed().as_secs_f64() * 1000.0);
        }
        if let (Some(up_ms), Some((figures, _))) = (up_ms, text.split_once("done\n")) {
            let lines = figures.lines().map(str::trim).filter(|line| *line != "up");
            let cycles = lines.map(|line| {
                let parsed = line
                    .split_once(' ')
                    .and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
                parsed.unwrap_or_else(|| panic!("the guest says {line:?}"))
            });
            return Run { up_ms, cycles: cycles.collect(), steps: Steps::new() };
        }
        assert!(begun.elapsed() < LIMIT, "the guest is not done: {text:?}");
        // Long enough not to disturb what is measured, short beside a start.
        std::thread::sleep(Duration::from_micros(if up_ms.is_none() { 200 } else { 20_000 }));
    }
}
