//! The list of specs that may fail or be skipped, and its comparison with what came.

use crate::report::{Outcome, Report};
use crate::{LIST, Specs, list_path};

/// The exceptions; every other spec must pass.
#[derive(Debug)]
pub struct Expected(Specs);

impl Expected {
    /// What the list says: on each line "failed: NAME" or "skipped: NAME", below a comment that says why.
    pub fn of_the_list() -> Expected {
        Expected::parse(LIST).unwrap_or_else(|e| panic!("{}: {e}", list_path().display()))
    }

    fn parse(text: &str) -> Result<Expected, String> {
        let mut specs = Specs::new();
        let mut reason = false;
        for line in text.lines().map(str::trim) {
            let (outcome, name) = match line.split_once(": ") {
                _ if line.is_empty() => {
                    reason = false;
                    continue;
                }
                _ if line.starts_with('#') => {
                    reason = true;
                    continue;
                }
                Some(("failed", name)) => (Outcome::Failed, name),
                Some(("skipped", name)) => (Outcome::Skipped, name),
                _ => return Err(format!("{line:?} is neither \"failed: NAME\" nor \"skipped: NAME\"")),
            };
            if !reason {
                return Err(format!("no comment above {name:?} says why"));
            }
            if specs.insert(name.to_owned(), outcome).is_some() {
                return Err(format!("{name:?} stands there twice"));
            }
        }
        Ok(Expected(specs))
    }

    /// Where the report is not as the list says, a line for each.
    pub fn differences(&self, report: &Report) -> Vec<String> {
        let expected = |name| self.0.get(name).copied().unwrap_or(Outcome::Passed);
        let mut lines: Vec<_> = (report.specs.iter())
            .filter(|(name, outcome)| **outcome != expected(*name))
            .map(|(name, outcome)| format!("{}, not {}: {name}", outcome.word(), expected(name).word()))
            .collect();
        let unknown = self.0.keys().filter(|name| !report.specs.contains_key(*name));
        lines.extend(unknown.map(|name| format!("{} names no spec: {name}", list_path().display())));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_have_a_reason_and_stand_once() {
        let list = Expected::parse("# why\nfailed: a b\nskipped: c\n\n# and why\nfailed: d").unwrap();
        assert_eq!(list.0.len(), 3);
        assert_eq!(list.0["c"], Outcome::Skipped);
        for (text, says) in [
            ("failed: a", "says why"),
            ("# why\nfailed: a\n\nfailed: b", "says why"),
            ("# why\nfailed: a\nskipped: a", "twice"),
            ("# why\npassed: a", "neither"),
        ] {
            assert!(Expected::parse(text).unwrap_err().contains(says), "{text}");
        }
    }

    #[test]
    fn the_list_is_well_formed() {
        Expected::of_the_list();
    }
}
