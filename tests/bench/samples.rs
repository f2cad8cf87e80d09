//! Samples and their table.

use std::fmt::Write;

use husk_tests::median;

/// Samples of several things, in the order of their first ones.
#[derive(Debug, Default)]
pub struct Samples(Vec<(&'static str, Vec<f64>)>);

impl Samples {
    /// One more sample, milliseconds.
    pub fn add(&mut self, name: &'static str, sample: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((name, vec![sample])),
        }
    }

    /// Medians, extremes, and the ratio of each median to that of its floor, which `floor` names.
    pub fn table(&self, floor: impl Fn(&'static str) -> &'static str) -> String {
        let median_of = |wanted: &str| {
            self.0.iter().find(|(name, _)| *name == wanted).map(|(_, samples)| median(samples))
        };
        let mut text =
            format!("{:<26}{:>10}{:>10}{:>10}{:>5}{:>8}\n", "", "median", "min", "max", "n", "ratio");
        for (name, samples) in &self.0 {
            let (least, most) = samples.iter().fold((f64::MAX, 0f64), |(l, m), s| (l.min(*s), m.max(*s)));
            let middle = median(samples);
            let ratio = median_of(floor(name)).map_or(f64::NAN, |floor| middle / floor);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name:<26}{middle:>7.1} ms{least:>7.1} ms{most:>7.1} ms{:>5}{ratio:>8.3}",
                samples.len()
            );
        }
        text
    }
}
