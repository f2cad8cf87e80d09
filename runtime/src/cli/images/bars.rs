//! A pull for a person at a terminal: a bar for each layer.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use husk_images::{Progress, Step};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::node::lock;
use crate::pull_progress::PullProgress;

const LAYER: &str = "{msg} {bar:32} {bytes:>10} of {total_bytes:<10} {bytes_per_sec}";
/// Digits of a layer's digest that are shown.
const SHOWN: usize = 12;

/// Tells of a pull of `name` on standard error: with bars on a terminal, in lines otherwise.
pub fn progress(name: &str) -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() {
        return Box::new(Bars::new(MultiProgress::new(), name));
    }
    let shown = name.to_owned();
    Box::new(PullProgress::new(move |line| eprintln!("husk: {shown}: {line}")))
}

struct Bars {
    all: MultiProgress,
    /// The line above the layers.
    title: ProgressBar,
    name: String,
    layers: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn new(all: MultiProgress, name: &str) -> Bars {
        let title = all.add(ProgressBar::no_length());
        title.set_style(style("{msg}"));
        title.set_message(format!("{name}: asking for it"));
        Bars { all, title, name: name.to_owned(), layers: Mutex::default() }
    }
}

impl Progress for Bars {
    fn step(&self, step: Step<'_>) {
        match step {
            Step::Resolved { layers: 0, .. } => {
                self.title.set_message(format!("{}: all layers are there already", self.name));
            }
            Step::Resolved { layers, bytes, .. } => {
                let size = super::size(bytes);
                self.title.set_message(format!("{}: fetching {layers} layers, {size}", self.name));
            }
            Step::Layer { digest, done, total } => {
                let mut layers = lock(&self.layers);
                let bar = layers.entry(digest.to_owned()).or_insert_with(|| {
                    let bar = self.all.add(ProgressBar::new(total).with_style(style(LAYER)));
                    let hex = digest.trim_start_matches("sha256:");
                    bar.set_message(hex.chars().take(SHOWN).collect::<String>());
                    bar
                });
                bar.set_position(done);
                if done >= total {
                    bar.abandon();
                }
            }
            Step::Merging => self.title.set_message(format!("{}: writing its metadata", self.name)),
        }
    }
}

impl Drop for Bars {
    /// What is shown stays, so that what comes next stands below it.
    fn drop(&mut self) {
        self.title.abandon();
        lock(&self.layers).values().for_each(ProgressBar::abandon);
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that does not parse costs the layout, not the pull; the test sees to it.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;

    #[test]
    fn every_layer_has_a_bar() {
        assert!(ProgressStyle::with_template(LAYER).is_ok());
        let terminal = InMemoryTerm::new(10, 100);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let bars = Bars::new(MultiProgress::with_draw_target(target), "busybox");
        bars.step(Step::Resolved { id: "sha256:x", layers: 2, bytes: 3_000_000 });
        bars.step(Step::Layer { digest: "sha256:aaaaaaaaaaaaaaaa", done: 1 << 20, total: 1 << 20 });
        bars.step(Step::Layer { digest: "sha256:bbbbbbbbbbbbbbbb", done: 0, total: 2 << 20 });
        bars.step(Step::Layer { digest: "sha256:bbbbbbbbbbbbbbbb", done: 1 << 20, total: 2 << 20 });
        bars.step(Step::Merging);
        drop(bars);
        let shown = terminal.contents();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert_eq!(lines[0], "busybox: writing its metadata");
        assert!(
            lines[1].starts_with("aaaaaaaaaaaa ") && lines[1].contains("1.00 MiB of 1.00 MiB"),
            "{shown}"
        );
        assert!(
            lines[2].starts_with("bbbbbbbbbbbb ") && lines[2].contains("1.00 MiB of 2.00 MiB"),
            "{shown}"
        );
    }
}
