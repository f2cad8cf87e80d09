//! A pull's steps as lines of text: for the log, and for a person at a terminal.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use husk_images::{Progress, Step};

use crate::node::lock;

/// The least time between two lines about layers.
const PAUSE: Duration = Duration::from_secs(2);

/// Says what a pull does with `say`.
pub struct PullProgress {
    say: Say,
    state: Mutex<State>,
}

type Say = Box<dyn Fn(&str) + Send + Sync>;

struct State {
    total: u64,
    done: HashMap<String, u64>,
    said: Instant,
}

impl PullProgress {
    /// `say` takes one line, without its end.
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let state = State { total: 0, done: HashMap::new(), said: Instant::now() };
        PullProgress { say: Box::new(say), state: Mutex::new(state) }
    }
}

impl Progress for PullProgress {
    fn step(&self, step: Step<'_>) {
        let mut state = lock(&self.state);
        let line = match step {
            Step::Resolved { layers: 0, .. } => "all layers are there already".to_owned(),
            Step::Resolved { layers, bytes, .. } => {
                state.total = bytes;
                format!("fetching {layers} layers, {}", mb(bytes))
            }
            Step::Layer { digest, done, .. } => {
                state.done.insert(digest.to_owned(), done);
                if state.said.elapsed() < PAUSE {
                    return;
                }
                format!("{} of {} fetched and converted", mb(state.done.values().sum()), mb(state.total))
            }
            Step::Merging => "writing the image's metadata".to_owned(),
        };
        state.said = Instant::now();
        drop(state);
        (self.say)(&line);
    }
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn layers_are_summed_and_lines_are_few() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let progress = PullProgress::new(move |line: &str| lock(&kept).push(line.to_owned()));
        progress.step(Step::Resolved { id: "sha256:x", layers: 2, bytes: 3_000_000 });
        progress.step(Step::Layer { digest: "a", done: 500_000, total: 1_000_000 });
        lock(&progress.state).said -= PAUSE;
        progress.step(Step::Layer { digest: "b", done: 1_000_000, total: 2_000_000 });
        assert_eq!(*lock(&lines), ["fetching 2 layers, 3.0 MB", "1.5 MB of 3.0 MB fetched and converted"]);
    }
}
