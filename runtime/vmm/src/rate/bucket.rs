//! A token bucket that may go into debt.

use std::time::{Duration, Instant};

use crate::config::Rate;

/// Tokens are counted in billionths, so that none is lost however often the bucket is looked at.
const UNIT: i128 = 1_000_000_000;

/// Tokens that come at a steady rate and are saved up to a limit.
///
/// What something costs is often only known when it is done: it may be begun while there is any token at all, and what
/// it costs beyond is paid off before the next. So what passes in a time is at most `burst`, the rate times the time,
/// and one piece of work.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    level: i128,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: i128::from(rate.burst) * UNIT, at: now }
    }

    /// How long until something may be begun; zero: now.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let come = (passed.as_nanos() as i128).saturating_mul(self.rate.per_second.into());
        self.level = self.level.saturating_add(come).min(i128::from(self.rate.burst) * UNIT);
        if self.level > 0 {
            return Duration::ZERO;
        }
        let nanos = -self.level / i128::from(self.rate.per_second.max(1)) + 1;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes tokens.
    pub fn spend(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(i128::from(tokens) * UNIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(per_second: u64, burst: u64) -> (Bucket, Instant) {
        let now = Instant::now();
        (Bucket::new(Rate { per_second, burst }, now), now)
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let (mut bucket, begin) = bucket(1000, 500);
        assert_eq!(bucket.wait(begin), Duration::ZERO);
        bucket.spend(400);
        assert_eq!(bucket.wait(begin), Duration::ZERO);
        bucket.spend(300);
        // 200 are owed: at a thousand a second that is 200 ms.
        let wait = bucket.wait(begin);
        assert_eq!(wait, Duration::from_millis(200) + Duration::from_nanos(1));
        assert!(!bucket.wait(begin + Duration::from_millis(200)).is_zero());
        assert!(bucket.wait(begin + wait).is_zero());
    }

    #[test]
    fn no_more_is_saved_than_the_burst_and_time_does_not_go_back() {
        let (mut bucket, begin) = bucket(1000, 500);
        let later = begin + Duration::from_secs(3600);
        assert!(bucket.wait(later).is_zero());
        bucket.spend(600);
        assert_eq!(bucket.wait(later).as_millis(), 100);
        assert_eq!(bucket.wait(begin).as_millis(), 100);
        assert_eq!(bucket.wait(later + Duration::from_millis(40)).as_millis(), 60);
    }

    #[test]
    fn the_largest_numbers_are_no_trouble() {
        let (mut bucket, begin) = bucket(u64::MAX, u64::MAX);
        assert!(bucket.wait(begin + Duration::from_secs(u64::from(u32::MAX))).is_zero());
        for _ in 0..3 {
            bucket.spend(u64::MAX);
        }
        assert!(bucket.wait(begin + Duration::from_secs(u64::from(u32::MAX))) > Duration::ZERO);
    }

    proptest! {
        /// Whoever waits as told gets no more than the bucket promises, and is not held up for longer than needed.
        #[test]
        fn what_passes_is_what_is_promised(
            per_second in 1_u64..1 << 30,
            burst in 1_u64..1 << 30,
            costs in prop::collection::vec((0_u64..1 << 24, 0_u64..50_000_000), 1..200),
        ) {
            let (mut bucket, begin) = bucket(per_second, burst);
            let (mut now, mut passed, mut idle) = (begin, 0_u128, Duration::ZERO);
            for (cost, pause) in costs {
                now += Duration::from_nanos(pause);
                idle += Duration::from_nanos(pause);
                now += bucket.wait(now);
                prop_assert!(bucket.wait(now).is_zero());
                let promised = u128::from(burst) + (now - begin).as_nanos() * u128::from(per_second) / UNIT as u128;
                prop_assert!(passed <= promised, "{passed} of {promised}");
                passed += u128::from(cost);
                bucket.spend(cost);
            }
            // All that was waited for was paid: the time beyond the pauses is no more than what passed is worth.
            let worth = passed * UNIT as u128 / u128::from(per_second) + 1000;
            prop_assert!((now - begin - idle).as_nanos() <= worth);
        }
    }
}
