//! Ginkgo's JSON report.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Specs;

/// What came of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    /// The word for it in the list of exceptions.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// All specs of a run.
#[derive(Debug)]
pub struct Report {
    pub specs: Specs,
    /// Those that passed at a second attempt.
    flaky: Vec<String>,
}

impl Report {
    /// Reads the file that critest wrote.
    pub fn read(path: &Path) -> Result<Report, String> {
        let text = fs::read(path).map_err(|e| format!("critest wrote no report {}: {e}", path.display()))?;
        let suites: Value = serde_json::from_slice(&text).map_err(|e| format!("critest's report: {e}"))?;
        let mut report = Report { specs: Specs::new(), flaky: Vec::new() };
        let specs = suites.as_array().into_iter().flatten().flat_map(|suite| suite["SpecReports"].as_array());
        for spec in specs.flatten().filter(|spec| spec["LeafNodeType"] == "It") {
            let name = name(spec);
            let outcome = match spec["State"].as_str() {
                Some("passed") => Outcome::Passed,
                Some("skipped" | "pending") => Outcome::Skipped,
                _ => Outcome::Failed,
            };
            if outcome == Outcome::Passed && spec["NumAttempts"].as_u64() > Some(1) {
                report.flaky.push(name.clone());
            }
            if report.specs.insert(name.clone(), outcome).is_some() {
                return Err(format!("critest has two specs {name:?}"));
            }
        }
        if report.specs.is_empty() { Err("critest ran nothing".to_owned()) } else { Ok(report) }
    }

    /// Takes another run's outcome of each spec that this one skipped.
    pub fn fill_in(&mut self, other: Report) {
        for (name, outcome) in other.specs {
            if let Some(own @ Outcome::Skipped) = self.specs.get_mut(&name) {
                *own = outcome;
            }
        }
        self.flaky.extend(other.flaky);
    }

    /// How many of each there are, and which needed two attempts.
    pub fn summary(&self, took: Duration) -> String {
        let count = |outcome| self.specs.values().filter(|found| **found == outcome).count();
        let mut text = format!(
            "critest: {} specs, {} passed, {} failed, {} skipped in {:.0} s",
            self.specs.len(),
            count(Outcome::Passed),
            count(Outcome::Failed),
            count(Outcome::Skipped),
            took.as_secs_f64()
        );
        for name in &self.flaky {
            text += &format!("\npassed at the second attempt: {name}");
        }
        text
    }
}

/// A spec's full name, as ginkgo prints it.
fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let parts: Vec<_> = containers.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str).collect();
    parts.join(" ")
}
