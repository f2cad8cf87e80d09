//! How long calls take, which had to be made again, and the table of both.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use husk_tests::step;
use tonic::Status;

/// How often a call is tried, as kubelet would try on.
const TRIES: usize = 3;

/// Calls of all tasks.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Milliseconds by the phase of the load and by the call.
    took: BTreeMap<(&'static str, &'static str), Vec<f64>>,
    again: Vec<String>,
}

impl Calls {
    /// Makes a call that must succeed; once more, and again, when it is refused.
    ///
    /// # Panics
    /// When it is refused each time: an error that a client could not retry.
    pub async fn retried<T, F>(
        &self,
        phase: &'static str,
        name: &'static str,
        mut call: impl FnMut() -> F,
    ) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        for _ in 1..TRIES {
            match self.timed(phase, name, call()).await {
                Ok(answer) => return answer,
                Err(status) => {
                    let text = format!("{name}: {:?}: {}", status.code(), status.message());
                    step(format!("once more: {text}"));
                    self.inner().again.push(text);
                }
            }
        }
        let last = self.timed(phase, name, call()).await;
        last.unwrap_or_else(|status| panic!("{name} was refused {TRIES} times: {status}"))
    }

    /// Makes a call and notes how long it took.
    pub async fn timed<T>(
        &self,
        phase: &'static str,
        name: &'static str,
        call: impl Future<Output = T>,
    ) -> T {
        let begun = Instant::now();
        let answer = call.await;
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        self.inner().took.entry((phase, name)).or_default().push(took);
        answer
    }

    /// Percentiles of every call, by phases; those of the last phase with the growth since the first of the same call.
    pub fn table(&self, title: &str) -> String {
        let inner = self.inner();
        let mut text = format!("{title}\n{:<40}{:>8}{:>12}{:>12}{:>9}\n", "", "n", "p50", "p99", "growth");
        for ((phase, name), samples) in &inner.took {
            let first = inner.took.iter().find(|((_, other), _)| other == name).map(|(_, samples)| samples);
            let middle = percentile(samples, 50);
            let growth = first.filter(|first| !std::ptr::eq(*first, samples));
            let growth =
                growth.map_or("-".to_owned(), |first| format!("{:.2}", middle / percentile(first, 50)));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<40}{:>8}{middle:>9.1} ms{:>9.1} ms{growth:>9}",
                format!("{name}, {phase}"),
                samples.len(),
                percentile(samples, 99),
            );
        }
        let _ = writeln!(text, "calls that were made again: {}", inner.again.len());
        for again in &inner.again {
            let _ = writeln!(text, "  {again}");
        }
        text
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sample below which so many per cent of them are; not a number without any.
fn percentile(samples: &[f64], per_cent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * per_cent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&samples, 50), percentile(&samples, 99)), (100.0, 198.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[tokio::test]
    async fn refusals_are_counted() {
        let calls = Calls::default();
        let mut left = 1;
        let answer = calls
            .retried("a", "Call", || {
                left -= 1;
                async move { if left == 0 { Err(Status::aborted("not now")) } else { Ok(left) } }
            })
            .await;
        assert_eq!(answer, -1);
        let table = calls.table("t");
        assert!(table.contains("calls that were made again: 1") && table.contains("not now"), "{table}");
    }
}
