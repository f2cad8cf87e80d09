//! Samples of what is measured, ours and the peer's, from either half of the benchmark.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use husk_tests::median;

use crate::trace::Steps;

/// Samples by the name of what is measured.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, [Vec<f64>; 2]>);

impl Figures {
    /// One more sample of ours.
    pub fn ours(&mut self, name: &str, sample: f64) {
        self.add(name, 0, sample);
    }

    /// One more sample of the peer's.
    pub fn peers(&mut self, name: &str, sample: f64) {
        self.add(name, 1, sample);
    }

    /// Samples of each step of a start.
    pub fn steps(&mut self, start: &str, steps: Steps) {
        steps.into_iter().for_each(|(step, took)| self.ours(&format!("{start}: {step}"), took));
    }

    fn add(&mut self, name: &str, side: usize, sample: f64) {
        self.0.entry(name.to_owned()).or_default()[side].push(sample);
    }

    /// The medians of both sides, where there are samples.
    pub fn medians(&self, name: &str) -> [Option<f64>; 2] {
        let sides = self.0.get(name).cloned().unwrap_or_default();
        sides.map(|samples| (!samples.is_empty()).then(|| median(&samples)))
    }

    /// Takes those of the other half.
    pub fn merge(&mut self, other: Figures) {
        self.0.extend(other.0);
    }

    /// Writes them to a file.
    pub fn save(&self, path: &Path) {
        fs::write(path, serde_json::to_vec(&self.0).expect("encode")).expect("write the figures");
    }

    /// Those of a file.
    pub fn load(path: &Path) -> Figures {
        Figures(serde_json::from_slice(&fs::read(path).expect("read the figures")).expect("decode"))
    }
}
